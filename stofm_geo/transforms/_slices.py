"""Cells and slices of a graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType


def cell_mask(data: Data) -> Tensor:
    """Return the mask of cells, ``[num_nodes]`` bool; all nodes without ``node_type``."""
    if "node_type" in data:
        return data.node_type == NodeType.CELL
    device = next((value.device for _, value in data if isinstance(value, Tensor)), None)
    return torch.ones(data.num_nodes, dtype=torch.bool, device=device)


def rows_by_slice(data: Data, nodes: Tensor | None = None) -> list[Tensor]:
    """Return the indices of the nodes of each slice, ascending; one slice without ``slice_id``.

    Args:
        data: One graph.
        nodes: Nodes to group; ``None``: the cells. Slices without such nodes are left out.
    """
    if nodes is None:
        nodes = cell_mask(data).nonzero().view(-1)
    if not len(nodes):
        return []
    if "slice_id" not in data:
        return [nodes]
    _, number = data.slice_id[nodes].unique(return_inverse=True)
    order, sizes = group(number)
    return list(nodes[order].split(sizes))


def edges_by_slice(data: Data, slices: list[Tensor]) -> list[Tensor]:
    """Return the indices of the edges inside each of these sets of nodes, in order."""
    src, dst = data.edge_index
    if len(slices) == 1:
        inside_slice = torch.zeros(data.num_nodes, dtype=torch.bool, device=src.device)
        inside_slice[slices[0]] = True
        return [(inside_slice[src] & inside_slice[dst]).nonzero().view(-1)]
    slice_of = torch.full((data.num_nodes,), -1, device=src.device)
    for i, nodes in enumerate(slices):
        slice_of[nodes] = i
    inside = ((slice_of[src] == slice_of[dst]) & (slice_of[dst] >= 0)).nonzero().view(-1)
    order, sizes = group(slice_of[dst[inside]], len(slices))
    return list(inside[order].split(sizes))


def group(number: Tensor, count: int = 0) -> tuple[Tensor | slice, list[int]]:
    """Sort items by group, in time that does not depend on the number of groups.

    Args:
        number: Group of each item, from 0, ``[n]``.
        count: Number of groups, where the last may be empty.

    Returns:
        An index that sorts the items by group, and the size of each group.
    """
    in_order = bool((number[1:] >= number[:-1]).all())
    order = slice(None) if in_order else number.argsort(stable=True)
    return order, torch.bincount(number, minlength=count).tolist()


def node_keys(data: Data) -> list[str]:
    """Return the names of the node attributes that are tensors."""
    return [key for key, value in data if isinstance(value, Tensor) and data.is_node_attr(key)]


def padded(values: Tensor, total: int) -> Tensor:
    """Return values of nodes, and NaN, -1 or ``False`` for the nodes after them."""
    missing: float | bool = -1
    if values.is_floating_point() or values.is_complex():
        missing = torch.nan
    elif values.dtype == torch.bool:
        missing = False
    padding = values.new_full((total - len(values), *values.shape[1:]), missing)
    return torch.cat([values, padding])


def edge_keys(data: Data) -> list[str]:
    """Return the names of the edge attributes that are tensors, ``edge_index`` included."""
    if data.edge_index is None:
        return []
    return [key for key, value in data if isinstance(value, Tensor) and data.is_edge_attr(key)]


def drop_edge_attributes(data: Data) -> None:
    """Remove attributes of edges that are about to be replaced: ``edge_attr``, ``edge_*``."""
    for key in ["edge_attr", *edge_keys(data)]:
        if key.startswith("edge_") and key != "edge_index":
            data[key] = None
