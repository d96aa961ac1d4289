"""Graphs that the edge attention op is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.utils import sort_edge_index

MACRO = 16
SMALL = 1050
SHAPES = ((1, 1), (3, 5), (4, 16), (8, 32), (8, 64))


@dataclass
class Case:
    """A graph, its edges sorted by destination, and a size of the heads."""

    name: str
    edge_index: Tensor
    nodes: int
    heads: int
    channels: int
    degree: int | None = None  # where all nodes have the same


def by_destination(edge_index: Tensor, n: int) -> Tensor:
    return sort_edge_index(edge_index, num_nodes=n, sort_by_row=False)


def regular(n: int, degree: int, reach: int = 200) -> Tensor:
    """Each node joined to ``degree`` random others, at most ``reach`` places away."""
    reach = min(reach, (n - 1) // 2)
    offset = torch.cat([torch.arange(-reach, 0), torch.arange(1, reach + 1)])
    chosen = torch.rand(n, len(offset)).argsort(dim=1)[:, :degree]
    dst = torch.arange(n)[:, None].expand(-1, degree)
    return by_destination(torch.stack([(dst + offset[chosen]) % n, dst]).flatten(1), n)


def with_macro(edge_index: Tensor, n: int) -> Tensor:
    """More nodes, joined to all others, both ways."""
    macro = torch.arange(n, n + MACRO)
    there = torch.cartesian_prod(torch.arange(n), macro).t()
    among = torch.cartesian_prod(macro, macro).t()
    edges = [edge_index, there, there.flip(0), among[:, among[0] != among[1]]]
    return by_destination(torch.cat(edges, dim=1), n + MACRO)


def cases(nodes: int, degree: int, heads: int, channels: int) -> list[Case]:
    """Four graphs with heads of this size, then the first one with other sizes of heads."""
    own = (heads, channels)
    near = regular(nodes, degree)
    far = by_destination(torch.randperm(nodes)[near], nodes)
    cells = min(SMALL, nodes) - MACRO
    small = with_macro(regular(cells, min(12, degree)), cells)
    return [
        Case("near", near, nodes, *own, degree),
        Case("far", far, nodes, *own, degree),
        Case("macro nodes", with_macro(near, nodes), nodes + MACRO, *own),
        Case("small", small, cells + MACRO, *own),
        *(Case("near", near, nodes, *shape, degree) for shape in SHAPES if shape != own),
    ]
