"""The published objectives of pre-training: guess hidden cells, and how far moved cells were."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import sort_edge_index

from stofm_geo._keys import NodeType
from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.models.official.network import OfficialNetwork


@dataclass(frozen=True)
class OfficialMaskingConfig:
    """What is hidden and moved; the defaults are the published constants.

    Attributes:
        mask_ratio: Share of the cells whose features are hidden.
        mask_kept: Share of other cells that are asked for, but not hidden.
        mask_value: What a hidden cell's features become.
        noise_ratio: Share of the cells that are moved.
        noise_kept: Share of other cells whose distances are asked for, though they are not moved.
        noise_std: Standard deviation of a move along x and y, in mean spacings of the cells
            (the root of the bounding box's area a cell).

    Raises:
        ValueError: Shares that are none, or sum to more than 1.
    """

    mask_ratio: float = 0.12
    mask_kept: float = 0.03
    mask_value: float = -100.0
    noise_ratio: float = 0.12
    noise_kept: float = 0.03
    noise_std: float = 5.0

    def __post_init__(self) -> None:
        for kind in ("mask", "noise"):
            ratio, kept = getattr(self, f"{kind}_ratio"), getattr(self, f"{kind}_kept")
            check_fraction(f"{kind}_ratio", ratio)
            check_fraction(f"{kind}_kept", kept)
            if ratio + kept > 1:
                raise ValueError(f"{kind}_ratio and {kind}_kept sum to {ratio + kept}; at most 1")
        check_positive("noise_std", self.noise_std, or_zero=True)


def mask_subslice(
    data: Data,
    objectives: OfficialMaskingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Data:
    """Hide some cells of a sub-slice and move others.

    A moved cell has a known distance to every node, which reveals that it was moved. This is the
    published scheme, with which the published weights were trained.

    Args:
        data: Of :func:`~stofm_geo.models.official.subslices`.
        objectives: Shares and sizes; ``None``: as published.
        generator: Of what is drawn; ``None``: PyTorch's global one.

    Returns:
        A copy with masked features and new edges of the moved cells; ``x_true`` ``[N, F]``;
        ``target_mask`` ``[N]``, the cells to predict; ``pair_index`` ``[2, P]``, the pairs of cells
        whose distance is to be predicted, and ``pair_distance`` ``[P]``.
    """
    o = objectives or OfficialMaskingConfig()
    made = copy.copy(data)
    cell = data.node_type == NodeType.CELL
    hidden, asked = _drawn(cell, o.mask_ratio, o.mask_kept, generator)
    made.x_true, made.target_mask = data.x, asked
    made.x = data.x.masked_fill(hidden[:, None], o.mask_value)

    moved, far = _drawn(cell, o.noise_ratio, o.noise_kept, generator)
    src, dst = data.edge_index
    wanted = cell[src] & cell[dst] & (src != dst) & (far[src] | far[dst])
    made.pair_index, made.pair_distance = data.edge_index[:, wanted], data.edge_attr[wanted]

    own = data.pos[cell]
    extent = own.amax(0) - own.amin(0) if len(own) else data.pos.new_zeros(2)
    sigma = o.noise_std * (extent.prod() / max(len(own), 1)).sqrt()
    made.pos = data.pos.clone()
    steps = torch.randn(int(moved.sum()), 2, generator=generator, dtype=data.pos.dtype)
    made.pos[moved] += sigma * steps.to(data.pos.device)
    made.edge_index, made.edge_attr = _told_anew(made, moved)
    return made


def losses(network: OfficialNetwork, data: Data) -> tuple[Tensor, Tensor]:
    """Return the mean losses of masked cells (1 - cosine) and distances (squared error).

    Args:
        network: With its heads.
        data: Of :func:`mask_subslice`, or a batch of such.

    Raises:
        ValueError: The network has no heads.
    """
    if network.lm_head is None or network.pair_head is None:
        raise ValueError("the network has no heads of pre-training; make it with heads=True")
    z, logits = network(data, data.pair_index)
    guess = F.normalize(network.lm_head(z[data.target_mask]), dim=-1)
    same = guess.new_ones(len(guess))
    hidden = F.cosine_embedding_loss(guess, data.x_true[data.target_mask], same)
    return hidden, F.mse_loss(network.pair_head(logits).squeeze(1), data.pair_distance)


def _drawn(
    cell: Tensor, share: float, kept: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return masks ``[N]`` of changed nodes, and of these with unchanged target nodes."""
    cells = cell.nonzero()[:, 0]
    order = cells[torch.randperm(len(cells), generator=generator).to(cells.device)]
    first = int(share * len(cells))
    changed, asked = torch.zeros_like(cell), torch.zeros_like(cell)
    changed[order[:first]] = True
    asked[order[: first + int(kept * len(cells))]] = True
    return changed, asked


def _told_anew(data: Data, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Return edges and distances, with those of moved cells to and from all nodes."""
    src, dst = data.edge_index
    still = ~(moved[src] | moved[dst])
    everyone = torch.arange(data.num_nodes, device=moved.device)
    out = torch.cartesian_prod(everyone[moved], everyone).view(-1, 2).t()
    back = torch.cartesian_prod(everyone[~moved], everyone[moved]).view(-1, 2).t()
    anew = torch.cat([out, back], dim=1)
    distance = (data.pos[anew[0]] - data.pos[anew[1]]).norm(dim=1).to(data.edge_attr.dtype)
    distance[(data.node_type[anew] == NodeType.CLS).any(dim=0)] = 0
    edge_index = torch.cat([data.edge_index[:, still], anew], dim=1)
    distance = torch.cat([data.edge_attr[still], distance])
    n = data.num_nodes
    edge_index, distance = sort_edge_index(edge_index, distance, n, sort_by_row=False)
    return edge_index, distance
