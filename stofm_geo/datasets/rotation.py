"""Random rotations of graphs in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data


def rotate_graphs(graphs: Sequence[Data], *, seed: int) -> list[Data]:
    """Rotate positions and vectors of each graph by a random angle about the origin.

    Args:
        graphs: Graphs with ``pos`` ``[N, 2]``; ``vectors`` ``[N, V, 2]`` of order 1, and targets
            ``y`` ``[N, 2]`` are rotated as well.
        seed: Random seed.

    Returns:
        New graphs.
    """
    draw = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(len(graphs), generator=draw, dtype=torch.float64)
    return [_rotated(graph, angle) for graph, angle in zip(graphs, angles, strict=True)]


def _rotated(graph: Data, angle: Tensor) -> Data:
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, sin, -sin, cos]).view(2, 2)  # of rows: v @ rotation
    graph = graph.clone()
    for key in ("pos", "vectors", "y"):
        value = graph.get(key)
        if value is not None and value.dim() > 1:
            graph[key] = (value.double() @ rotation).to(value.dtype)
    return graph
