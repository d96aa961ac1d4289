"""One graph object: edges sorted by destination, with their reverse order."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.edge_index import EdgeIndex


class EdgeGraph:
    """Edges in the order the kernels walk them; built once a batch, shared by all layers.

    Args:
        edge_index: ``[2, E]`` int64, rows source and destination, in any order; or PyG's
            ``EdgeIndex``, which is not looked through where it is sorted by destination.
        num_dst: Number of destinations ``N``.
        num_src: Number of sources ``M`` (default: ``num_dst``).

    Attributes:
        edge_index: The edges as they were given, ``[2, E]``.
        src: Sources ``[E]``, by destination.
        dst: Destinations ``[E]``, ascending.
        ptr: Where each destination's edges start, ``[N + 1]``.
        order: Places in ``edge_index`` of the sorted edges ``[E]``; ``None`` if it was sorted.

    Raises:
        ValueError: ``edge_index`` is not int64 ``[2, E]``.
    """

    def __init__(self, edge_index: Tensor, num_dst: int, num_src: int | None = None) -> None:
        if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype != torch.int64:
            raise ValueError(
                f"edge_index must be int64 [2, E]; found {edge_index.dtype} "
                f"{list(edge_index.shape)}"
            )
        is_sorted = False
        if isinstance(edge_index, EdgeIndex):
            is_sorted = edge_index.is_sorted_by_col
            edge_index = edge_index.as_tensor()
        elif not torch.compiler.is_compiling():  # a compiled graph cannot depend on values
            is_sorted = bool((edge_index[1, 1:] >= edge_index[1, :-1]).all())
        self.num_dst = num_dst
        self.num_src = num_dst if num_src is None else num_src
        self.edge_index = edge_index
        self.src, self.dst = edge_index[0], edge_index[1]
        self.order: Tensor | None = None
        if not is_sorted:
            self.dst, self.order = self.dst.sort(stable=True)
            self.src = self.src.index_select(0, self.order)
        self.ptr = _pointers(self.dst, num_dst)
        self._reverse: tuple[Tensor, Tensor] | None = None

    @property
    def reverse(self) -> tuple[Tensor, Tensor]:
        """Sorted edges by source: where each source's start ``[M + 1]``, their numbers ``[E]``."""
        if self._reverse is None:
            src, edges = self.src.sort(stable=True)
            self._reverse = _pointers(src, self.num_src), edges
        return self._reverse

    def sorted(self) -> EdgeGraph:
        """The same graph, with the sorted edges as those given."""
        if self.order is None:
            return self
        graph = copy.copy(self)
        graph.edge_index = torch.stack([self.src, self.dst])
        graph.order = None
        return graph

    def sort(self, values: Tensor) -> Tensor:
        """Values of the given edges ``[E, ...]``, sorted."""
        return values if self.order is None else values.index_select(0, self.order)

    def unsort(self, values: Tensor) -> Tensor:
        """Values of the sorted edges ``[E, ...]``, in the order of those given."""
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy(0, self.order, values)


def _pointers(ascending: Tensor, size: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(size + 1, device=ascending.device))
