"""Edges sorted by destination, with their order by source."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch_geometric.edge_index import EdgeIndex

from stofm_geo.ops.autodiff import is_batched


class _Sorted(NamedTuple):
    src: Tensor
    dst: Tensor
    order: Tensor | None
    ptr: Tensor


class EdgeGraph:
    """Edges in the order in which the kernels process them; built once for all layers.

    Edges are sorted when a kernel first needs them sorted.

    Args:
        edge_index: ``[2, E]`` int64, rows source and destination, in any order; or PyG's
            ``EdgeIndex``, which is not checked for its order where it is marked as sorted by
            destination.
        num_dst: Number of destinations ``N``.
        num_src: Number of sources ``M`` (default: ``num_dst``).

    Attributes:
        edge_index: The edges as given, ``[2, E]``.
        num_dst: ``N``.
        num_src: ``M``.
        src: Sources ``[E]``, sorted by destination.
        dst: Destinations ``[E]``, ascending.
        ptr: Start of each destination's edges, ``[N + 1]``.
        order: Indices in ``edge_index`` of the sorted edges ``[E]``; ``None`` if it was sorted.

    Raises:
        ValueError: ``edge_index`` is not int64 ``[2, E]``.
        IndexError: An edge names a node that does not exist.
        RuntimeError: ``torch.func.vmap`` maps over ``edge_index``.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import EdgeGraph
        >>> graph = EdgeGraph(torch.tensor([[0, 2, 1], [1, 1, 0]]), num_dst=3)
        >>> graph.src.tolist(), graph.dst.tolist(), graph.ptr.tolist()
        ([1, 0, 2], [0, 1, 1], [0, 1, 3, 3])
    """

    def __init__(self, edge_index: Tensor, num_dst: int, num_src: int | None = None) -> None:
        if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype != torch.int64:
            fix = "cast it with .long()" if edge_index.dtype != torch.int64 else "transpose it"
            raise ValueError(
                f"edge_index must be int64 [2, E]; found {edge_index.dtype} "
                f"{list(edge_index.shape)}; {fix}"
            )
        if is_batched(edge_index):
            raise RuntimeError(
                "vmap cannot map over edge_index; put the graphs into one "
                "torch_geometric.data.Batch instead"
            )
        self.num_dst = num_dst
        self.num_src = num_dst if num_src is None else num_src
        self._is_sorted: bool | None = None
        if isinstance(edge_index, EdgeIndex):
            self._is_sorted = edge_index.is_sorted_by_col or None
            edge_index = edge_index.as_tensor()
        self.edge_index = _checked(edge_index, self.num_src, num_dst)
        self._sorted: _Sorted | None = None
        self._reverse: tuple[Tensor, Tensor] | None = None

    @property
    def src(self) -> Tensor:
        """Return the sources ``[E]``, sorted by destination."""
        return self._by_destination().src

    @property
    def dst(self) -> Tensor:
        """Return the destinations ``[E]``, ascending."""
        return self._by_destination().dst

    @property
    def order(self) -> Tensor | None:
        """Return the indices in ``edge_index`` of the sorted edges; ``None`` if it was sorted."""
        return self._by_destination().order

    @property
    def ptr(self) -> Tensor:
        """Return the start of each destination's edges, ``[N + 1]``."""
        return self._by_destination().ptr

    @property
    def reverse(self) -> tuple[Tensor, Tensor]:
        """Return the start of each source's edges ``[M + 1]``, and the edges by source ``[E]``."""
        if self._reverse is None:
            src, edges = self.src.sort(stable=True)
            self._reverse = _pointers(src, self.num_src), edges
        return self._reverse

    def sorted(self) -> EdgeGraph:
        """Return the same graph with the sorted edges as its ``edge_index``."""
        if self.order is None:
            return self
        graph = copy.copy(self)
        graph.edge_index = torch.stack([self.src, self.dst])
        graph._sorted = _Sorted(self.src, self.dst, None, self.ptr)
        return graph

    def sort(self, values: Tensor) -> Tensor:
        """Return values of the given edges ``[E, ...]`` in sorted order."""
        return values if self.order is None else values.index_select(0, self.order)

    def unsort(self, values: Tensor) -> Tensor:
        """Return values of the sorted edges ``[E, ...]`` in the given order."""
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy(0, self.order, values)

    def _by_destination(self) -> _Sorted:
        if self._sorted is None:
            src, dst = self.edge_index[0], self.edge_index[1]
            order = None
            if self._is_sorted is None and _has_values(dst):
                self._is_sorted = bool((dst[1:] >= dst[:-1]).all())
            if not self._is_sorted:
                dst, order = dst.sort(stable=True)
                src = src.index_select(0, order)
            self._sorted = _Sorted(src, dst, order, _pointers(dst, self.num_dst))
        return self._sorted


def _pointers(ascending: Tensor, size: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(size + 1, device=ascending.device))


def _has_values(tensor: Tensor) -> bool:
    """Return whether values can be read: not while tracing, nor on ``meta``."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return tensor.device.type != "meta" and not isinstance(tensor, FakeTensor)


def _checked(edge_index: Tensor, num_src: int, num_dst: int) -> Tensor:
    """Return ``edge_index`` after checking that its indices exist; kernels do not check."""
    if _has_values(edge_index):
        _check_indices(edge_index, num_src, num_dst)
        return edge_index
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _check_when_run(edge_index, num_src, num_dst)
    return edge_index  # an exported program checks when it gathers


def _check_indices(edge_index: Tensor, num_src: int, num_dst: int) -> None:
    if not edge_index.numel():
        return
    # Row by row, which is several times faster than along a dimension, and starts no threads for
    # few edges (they would hang in a forked process). One transfer from a GPU.
    bounds = torch.stack([bound for row in edge_index for bound in row.aminmax()]).tolist()
    for row, (name, size) in enumerate((("source", num_src), ("destination", num_dst))):
        for found in bounds[2 * row : 2 * row + 2]:
            if not 0 <= found < size:
                raise IndexError(
                    f"edge_index[{row}] holds {found}, but there are {size} {name} nodes; "
                    f"indices must be in [0, {size})"
                )


@torch.library.custom_op("stofm_geo::check_indices", mutates_args=())
def _check_when_run(edge_index: Tensor, num_src: int, num_dst: int) -> Tensor:
    if edge_index.is_cuda:  # no synchronisation within a compiled program
        size = torch.tensor([[num_src], [num_dst]]).to(edge_index.device, non_blocking=True)
        torch._assert_async(((edge_index >= 0) & (edge_index < size)).all())
    else:
        _check_indices(edge_index, num_src, num_dst)
    return edge_index.clone()


@_check_when_run.register_fake
def _(edge_index, num_src, num_dst):  # type: ignore[no-untyped-def]
    return torch.empty_like(edge_index)
