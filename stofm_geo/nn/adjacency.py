"""The ways in which PyG users hand in edges, as one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index
from torch_geometric.utils.sparse import set_sparse_value

from stofm_geo.ops import EdgeGraph


def graph_of(
    edge_index: Adj | EdgeGraph, num_dst: int, num_src: int
) -> tuple[EdgeGraph, Tensor | None]:
    """The graph, and the values of a sparse matrix.

    Args:
        edge_index: ``[2, E]`` (a tensor or an ``EdgeIndex``), the transposed adjacency matrix
            (rows are destinations) as a ``torch.sparse`` tensor or torch-sparse's
            ``SparseTensor``, or a graph.
        num_dst: Number of destinations.
        num_src: Number of sources.
    """
    if isinstance(edge_index, EdgeGraph):
        return edge_index, None
    value = None
    if isinstance(edge_index, SparseTensor):
        row, col, value = edge_index.coo()
        edge_index = torch.stack([col, row])
    elif is_torch_sparse_tensor(edge_index):
        edge_index, value = to_edge_index(edge_index)
        edge_index = edge_index.flip(0)
    return EdgeGraph(edge_index, num_dst, num_src), value


def with_values(edge_index: Adj | EdgeGraph, alpha: Tensor) -> tuple[Adj, Tensor] | Adj:
    """Attention weights ``[E, H]`` beside the edges, in the form PyG's layers return them."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.set_value(alpha, layout="coo")
    if is_torch_sparse_tensor(edge_index):
        return set_sparse_value(edge_index, alpha), alpha
    return edge_index.edge_index if isinstance(edge_index, EdgeGraph) else edge_index, alpha
