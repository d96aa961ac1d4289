"""Synthetic neighbourhoods whose label depends on directions only, not on distances."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._validation import check_positive

_RAYS = 8


def toy_stars(
    kind: Literal["direction", "chirality"], num_graphs: int = 500, *, seed: int = 0
) -> list[Data]:
    """Make graphs of a cell with eight neighbours at distance 1, rotated at random.

    - ``"direction"``: a quantity increases or decreases across the neighbours, as seen from a
      landmark among them; the label is whether its source lies on the landmark's side. All
      neighbours are equally far, and both labels have the same values, so only directions
      distinguish them.
    - ``"chirality"``: three kinds of neighbours follow one another clockwise or counterclockwise
      (the label). Neighbours are joined to each other, too. A graph and its mirror image have the
      same distances between all nodes, so only a layer that distinguishes reflections can learn the
      label.

    Args:
        kind: ``"direction"`` or ``"chirality"``.
        num_graphs: Number of graphs, half of them with each label (default 500).
        seed: Random seed (default 0).

    Returns:
        Graphs with ``x`` ``[9, 4]`` float32 (node 0 is the centre), ``pos`` ``[9, 2]`` float32,
        ``edge_index`` and ``y`` ``[1]``, 0 or 1.

    Raises:
        ValueError: ``kind`` is unknown, or ``num_graphs`` is not positive.

    Examples:
        >>> from stofm_geo.datasets import toy_stars
        >>> graphs = toy_stars("direction", 4)
        >>> graphs[0].x.shape, [graph.y.item() for graph in graphs]
        (torch.Size([9, 4]), [0, 1, 0, 1])
    """
    makers = {"direction": _direction, "chirality": _chirality}
    if kind not in makers:
        raise ValueError(f"kind must be one of {list(makers)}; found {kind!r}")
    check_positive("num_graphs", num_graphs, whole=True)
    draw = torch.Generator().manual_seed(seed)
    return [makers[kind](label % 2, draw) for label in range(num_graphs)]


def _direction(label: int, draw: torch.Generator) -> Data:
    angle = torch.arange(_RAYS) * (2 * math.pi / _RAYS)
    x = torch.zeros(1 + _RAYS, 4)
    x[0, 0] = x[1, 1] = 1  # the centre; the landmark, on ray 0
    # Nothing on the landmark and on the ray opposite, where the two labels would differ in value.
    slope = (0.5 + torch.rand(1, generator=draw)) * (1 if label else -1)
    x[1:, 2] = slope * angle.cos().round(decimals=6)
    x[[1, 1 + _RAYS // 2], 2] = 0
    return _star(x, label, draw)


def _chirality(label: int, draw: torch.Generator) -> Data:
    kinds = torch.tensor([0, 1, 2]) if label else torch.tensor([0, 2, 1])
    x = torch.zeros(1 + _RAYS, 4)
    x[0, 0] = 1
    x[1 + torch.tensor([0, 3, 5]), 1 + kinds] = 1
    # Rays 3 and 5 mirror each other at the axis through ray 0: so do the two labels.
    ring = torch.arange(1, 1 + _RAYS)
    data = _star(x, label, draw)
    around = torch.combinations(ring).t()
    data.edge_index = torch.cat([data.edge_index, around, around.flip(0)], dim=1)
    return data


def _star(x: Tensor, label: int, draw: torch.Generator) -> Data:
    turn = 2 * math.pi * torch.rand(1, generator=draw)
    angle = torch.arange(_RAYS) * (2 * math.pi / _RAYS) + turn
    pos = torch.cat([torch.zeros(1, 2), torch.stack([angle.cos(), angle.sin()], dim=1)])
    ring = torch.arange(1, 1 + _RAYS)
    edge_index = torch.stack([ring, torch.zeros_like(ring)])
    return Data(x=x, pos=pos, edge_index=edge_index, y=torch.tensor([label]))
