"""Random rotations of graphs in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data


def rotate_graphs(graphs: Sequence[Data], *, seed: int) -> list[Data]:
    """Rotate positions and vectors of each graph by a random angle about the origin.

    Args:
        graphs: Graphs with floating-point ``pos`` ``[N, 2]``; ``vectors`` ``[N, V, 2]`` of order
            1, and targets ``y`` ``[N, 2]`` of the nodes are rotated as well.
        seed: Random seed.

    Returns:
        New graphs.

    Raises:
        ValueError: ``pos`` is not floating-point ``[N, 2]``.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.datasets import rotate_graphs
        >>> rotated = rotate_graphs([Data(pos=torch.tensor([[3.0, 4.0]]))], seed=0)[0]
        >>> round(rotated.pos.norm().item(), 3)
        5.0
    """
    for graph in graphs:
        if graph.pos.dim() != 2 or graph.pos.size(1) != 2 or not graph.pos.is_floating_point():
            found = f"{graph.pos.dtype} {list(graph.pos.shape)}"
            raise ValueError(f"pos must be floating-point [N, 2]; found {found}")
    draw = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(len(graphs), generator=draw, dtype=torch.float64)
    return [_rotated(graph, angle) for graph, angle in zip(graphs, angles, strict=True)]


def _rotated(graph: Data, angle: Tensor) -> Data:
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, sin, -sin, cos]).view(2, 2)  # of rows: v @ rotation
    graph = graph.clone()
    for key in ("pos", "vectors", "y"):
        value = graph.get(key)
        if value is not None and value.size(0) == len(graph.pos) and value.shape[1:][-1:] == (2,):
            graph[key] = (value.double() @ rotation).to(value.dtype)
    return graph
