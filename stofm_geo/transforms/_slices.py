"""What several transforms ask of a graph: which nodes are cells, and of which slice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType


def cell_mask(data: Data) -> Tensor:
    """``[num_nodes]`` bool: cells, as opposed to virtual nodes. All, if there are none."""
    if "node_type" in data:
        return data.node_type == NodeType.CELL
    device = next((value.device for _, value in data if isinstance(value, Tensor)), None)
    return torch.ones(data.num_nodes, dtype=torch.bool, device=device)


def rows_by_slice(data: Data, nodes: Tensor | None = None) -> list[Tensor]:
    """Indices of the nodes of each slice, ascending; one entry where there is no ``slice_id``.

    Args:
        data: One graph.
        nodes: Which nodes; ``None``: the cells. Slices without any are left out.
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
    """Indices of the edges inside each of these sets of nodes, in the order of ``edge_index``."""
    src, dst = data.edge_index
    if len(slices) == 1:
        here = torch.zeros(data.num_nodes, dtype=torch.bool, device=src.device)
        here[slices[0]] = True
        return [(here[src] & here[dst]).nonzero().view(-1)]
    number = torch.full((data.num_nodes,), -1, device=src.device)
    for i, nodes in enumerate(slices):
        number[nodes] = i
    inside = ((number[src] == number[dst]) & (number[dst] >= 0)).nonzero().view(-1)
    order, sizes = group(number[dst[inside]], len(slices))
    return list(inside[order].split(sizes))


def group(number: Tensor, count: int = 0) -> tuple[Tensor | slice, list[int]]:
    """Sort what is numbered from 0, in time that does not depend on how many groups there are.

    Args:
        number: Of the group of each item, ``[n]``.
        count: Groups, where the last may be empty.

    Returns:
        An index that puts the items in order, group by group, and how many each group has.
    """
    in_order = bool((number[1:] >= number[:-1]).all())
    order = slice(None) if in_order else number.argsort(stable=True)
    return order, torch.bincount(number, minlength=count).tolist()


def edge_keys(data: Data) -> list[str]:
    """Names of the tensors that hold something of each edge, ``edge_index`` among them."""
    if data.edge_index is None:
        return []
    return [key for key, value in data if isinstance(value, Tensor) and data.is_edge_attr(key)]


def drop_edge_attributes(data: Data) -> None:
    """Remove what belonged to edges that are about to be replaced: ``edge_attr``, ``edge_*``."""
    for key in ["edge_attr", *edge_keys(data)]:
        if key.startswith("edge_") and key != "edge_index":
            data[key] = None
