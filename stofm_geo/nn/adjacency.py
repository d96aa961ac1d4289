"""The ways in which PyG users hand in edges, as one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.edge_index import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index
from torch_geometric.utils.sparse import set_sparse_value


def edges_of(edge_index: Adj) -> tuple[Tensor, Tensor | None]:
    """Rows source and destination, ``[2, E]``, and the values of a sparse matrix.

    Args:
        edge_index: ``[2, E]`` (a tensor or an ``EdgeIndex``), or the transposed adjacency matrix
            (rows are destinations) as a ``torch.sparse`` tensor or torch-sparse's ``SparseTensor``.
    """
    if isinstance(edge_index, SparseTensor):
        row, col, value = edge_index.coo()
        return torch.stack([col, row]), value
    if is_torch_sparse_tensor(edge_index):
        edges, value = to_edge_index(edge_index)
        return edges.flip(0), value
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    return edge_index, None


def with_values(edge_index: Adj, alpha: Tensor) -> tuple[Adj, Tensor] | Adj:
    """Attention weights ``[E, H]`` beside the edges, in the form PyG's layers return them."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.set_value(alpha, layout="coo")
    if is_torch_sparse_tensor(edge_index):
        return set_sparse_value(edge_index, alpha), alpha
    return edge_index, alpha
