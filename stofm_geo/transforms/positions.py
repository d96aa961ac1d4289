"""Transforms of positions: normalisation, random rigid motions, and noise for pre-training."""

from __future__ import annotations

import math

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform

from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.transforms import neighbor_search
from stofm_geo.transforms._base import GraphTransform
from stofm_geo.transforms._slices import cell_mask, rows_by_slice


@functional_transform("normalize_positions")
class NormalizePositions(GraphTransform):
    """Centre each slice at its mean position and scale it to cell spacings.

    The unit becomes the median distance from a cell to its 6th nearest cell, so that a model does
    not depend on the original unit, and the scale is invariant to rotation. (The published model
    divides by the diagonal of the bounding box, which depends on orientation;
    ``models.official`` does so.)

    Raises:
        ValueError: All cells of a slice have the same position, or ``data`` has virtual nodes.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import NormalizePositions
        >>> grid = 100 * torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
        >>> pos = NormalizePositions()(Data(pos=grid)).pos
        >>> round((pos[1] - pos[0]).norm().item(), 3)  # the 6th nearest is across a diagonal
        0.707
    """

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        if "node_type" in data:
            raise ValueError("data has virtual nodes; run NormalizePositions before MacroNodes")

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        pos = data.pos.clone()
        for rows in rows_by_slice(data):
            unit = neighbor_search.spacing(pos[rows])
            if len(rows) > 1 and unit == 0:
                raise ValueError(
                    f"all {len(rows)} cells of a slice have the same position; "
                    "a slice needs at least two distinct positions"
                )
            centre = pos[rows].double().mean(dim=0)
            pos[rows] = ((pos[rows].double() - centre) / (unit or 1.0)).to(pos.dtype)
        data.pos = pos
        return data


@functional_transform("random_se2")
class RandomSE2(GraphTransform):
    """Rotate and translate all positions at random, for augmentation or tests of invariance.

    Each graph of a batch is moved independently.

    Args:
        shift: Standard deviation of the translation in x and y, in the units of ``data.pos``
            (default 1).

    Raises:
        ValueError: ``shift`` is negative.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import RandomSE2
        >>> moved = RandomSE2()(Data(pos=torch.tensor([[0.0, 0.0], [3.0, 4.0]])))
        >>> round(torch.pdist(moved.pos).item(), 3)
        5.0
    """

    def __init__(self, shift: float = 1.0) -> None:
        check_positive("shift", shift, or_zero=True)
        self.shift = shift

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        angle = 2 * math.pi * torch.rand((), dtype=torch.float64)
        cos, sin = angle.cos(), angle.sin()
        rotation = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
        shift = self.shift * torch.randn(2, dtype=torch.float64)
        moved = data.pos.double() @ rotation.to(data.pos.device) + shift.to(data.pos.device)
        data.pos = moved.to(data.pos.dtype)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shift={self.shift})"


@functional_transform("perturb_positions")
class PerturbPositions(GraphTransform):
    """Move some cells at random, for models that predict true distances from features.

    Sets ``data.pos_target`` (the original positions) and ``data.moved`` (bool). Build the neighbour
    graph *afterwards*: a graph of the true positions would leak them. If ``data.core_mask`` exists,
    only core cells move.

    Args:
        p: Fraction of the cells that move (default 0.12, as published).
        sigma: Standard deviation of the noise in x and in y, in the units of ``data.pos``
            (default 5: after :class:`NormalizePositions`, five cell spacings, as published).

    Raises:
        ValueError: ``p`` is not between 0 and 1, or ``sigma`` is not positive.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import PerturbPositions
        >>> data = PerturbPositions(p=0.5)(Data(pos=torch.zeros(100, 2)))
        >>> torch.equal(data.pos.any(dim=1), data.moved), data.pos_target.abs().max().item()
        (True, 0.0)
    """

    def __init__(self, p: float = 0.12, sigma: float = 5.0) -> None:
        check_fraction("p", p)
        check_positive("sigma", sigma)
        self.p = p
        self.sigma = sigma

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        candidates = data.core_mask if "core_mask" in data else cell_mask(data)
        moved = candidates & (torch.rand(data.num_nodes, device=data.pos.device) < self.p)
        noise = self.sigma * torch.randn(data.pos.shape, device=data.pos.device)
        data.pos_target = data.pos
        data.pos = data.pos + noise.to(data.pos.dtype) * moved[:, None]
        data.moved = moved
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p}, sigma={self.sigma})"
