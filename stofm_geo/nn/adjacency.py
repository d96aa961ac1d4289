"""Conversion between PyG's representations of edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, SparseTensor
from torch_geometric.utils import is_torch_sparse_tensor, to_edge_index
from torch_geometric.utils.sparse import set_sparse_value

from stofm_geo.ops import EdgeGraph


def to_edge_graph(
    edge_index: Adj | EdgeGraph, num_dst: int, num_src: int
) -> tuple[EdgeGraph, Tensor | None]:
    """Return the graph, and the values if ``edge_index`` is a sparse matrix, else ``None``.

    Args:
        edge_index: ``[2, E]`` (a tensor or an ``EdgeIndex``), the transposed adjacency matrix
            (rows are destinations) as a ``torch.sparse`` tensor or torch-sparse's
            ``SparseTensor``, or a graph.
        num_dst: Number of destinations.
        num_src: Number of sources.

    Raises:
        ValueError: ``edge_index`` has another type or size, or is a sparse matrix with gradients
            that is not coalesced.
        IndexError: An edge has the index of a node that does not exist.
    """
    if isinstance(edge_index, EdgeGraph):
        found, expected = (edge_index.num_dst, edge_index.num_src), (num_dst, num_src)
        if found != expected:
            raise ValueError(
                f"the EdgeGraph has (num_dst, num_src) = {found}, and x has {expected} rows; build "
                "it with the sizes of x"
            )
        return edge_index, None
    value = None
    if isinstance(edge_index, SparseTensor):
        _check_matrix(edge_index.sparse_sizes(), num_dst, num_src)
        row, col, value = edge_index.coo()
        edge_index = torch.stack([col, row])
    elif is_torch_sparse_tensor(edge_index):
        _check_matrix(edge_index.shape[:2], num_dst, num_src)
        indices, value = _entries(edge_index)
        edge_index = indices.flip(0)
    elif isinstance(edge_index, EdgeIndex):
        size = edge_index.sparse_size()
        if any(s not in (None, n) for s, n in zip(size, (num_src, num_dst), strict=True)):
            raise ValueError(
                f"edge_index must have the sparse_size of x, {(num_src, num_dst)}; found {size}"
            )
    elif not isinstance(edge_index, Tensor):
        raise ValueError(
            "edge_index must be a tensor [2, E], an EdgeIndex, a sparse matrix or an EdgeGraph; "
            f"found {type(edge_index).__name__}"
        )
    if edge_index.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        edge_index = edge_index.long()
    return EdgeGraph(edge_index, num_dst, num_src), value


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns ``[2, E]`` of the entries, and their values."""
    if matrix.layout == torch.sparse_coo:
        matrix = _mark_coalesced(matrix)
        return matrix.indices().detach().long(), matrix.values()
    return to_edge_index(matrix)


def _mark_coalesced(matrix: Tensor) -> Tensor:
    """Return the matrix marked as coalesced, with unchanged entries, also duplicates.

    PyG's ``to_edge_index`` would mark the matrix of the caller in place.
    """
    if matrix.layout != torch.sparse_coo or matrix.is_coalesced():
        return matrix
    if matrix.requires_grad:
        raise ValueError(
            "the sparse matrix edge_index has gradients and is not coalesced, so they would be "
            "lost; pass adj.coalesce()"
        )
    return torch.sparse_coo_tensor(
        matrix._indices(), matrix._values(), matrix.shape, is_coalesced=True
    )


def _check_matrix(size: tuple[int, ...], num_dst: int, num_src: int) -> None:
    expected, found = [num_dst, num_src], list(size)
    if found != expected:
        fix = "pass adj.t()" if found == expected[::-1] else "build it with the sizes of x"
        raise ValueError(
            f"the sparse matrix edge_index must be [destinations, sources] = {expected}; "
            f"found {found}; {fix}"
        )


def attach_values(edge_index: Adj | EdgeGraph, alpha: Tensor) -> tuple[Adj, Tensor] | Adj:
    """Return edges with attention weights ``[E, H]``, in the form that PyG's layers return."""
    if isinstance(edge_index, SparseTensor):
        return edge_index.set_value(alpha, layout="coo")
    if isinstance(edge_index, Tensor) and is_torch_sparse_tensor(edge_index):
        return set_sparse_value(_mark_coalesced(edge_index), alpha), alpha
    return edge_index.edge_index if isinstance(edge_index, EdgeGraph) else edge_index, alpha
