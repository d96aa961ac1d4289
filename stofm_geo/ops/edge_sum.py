"""Weighted sums over edges, without a tensor of all messages."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.graph import EdgeGraph

try:
    from stofm_geo.ops import sums as loops
except ImportError:  # no numba for this Python
    loops = None  # type: ignore[assignment]

BACKENDS = ("auto", "reference")


def edge_sum(
    weight: Tensor, values: Tensor, graph: EdgeGraph | Tensor, *, backend: str = "auto"
) -> Tensor:
    r"""Sum the values of the sources over the edges, weighted by edge and head.

    .. math::
        o_{ih} = \sum_{j \to i} w_{jih} \, v_{jh}

    Args:
        weight: Weights of the edges, ``[E, H]``, of any sign.
        values: Values of the sources, ``[M, H, C]``.
        graph: ``[2, E]`` int64, rows source and destination, with as many destinations as
            sources (``N = M``); or an :class:`~stofm_geo.ops.EdgeGraph`.
        backend: ``"auto"`` (default): a kernel if there is one for these tensors;
            ``"reference"``: PyTorch's own operations.

    Returns:
        ``[N, H, C]``, with gradients of any order to both; 0 where a node has no edge.

    Raises:
        ValueError: Shapes do not match, or the backend is unknown.
        IndexError: An edge names a node that does not exist.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import edge_sum
        >>> values = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> edge_index = torch.tensor([[1, 2], [0, 0]])
        >>> edge_sum(torch.tensor([[1.0], [2.0]]), values, edge_index).flatten().tolist()
        [13.0, 0.0, 0.0]
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {list(BACKENDS)}")
    if not isinstance(graph, EdgeGraph):
        graph = EdgeGraph(graph, values.size(0))
    edges = graph.edge_index.size(1)
    if values.dim() != 3 or values.size(0) != graph.num_src:
        raise ValueError(f"values must be [{graph.num_src}, H, C]; found {list(values.shape)}")
    if weight.shape != (edges, values.size(1)):
        expected = [edges, values.size(1)]
        raise ValueError(f"weight must be [E, H] = {expected}; found {list(weight.shape)}")
    plain = backend == "reference" or loops is None or needs_plain_operations()
    if plain or values.device.type != "cpu":
        return scatter_edge_sum(weight, values, graph)
    needs_gradients = torch.is_grad_enabled() and (weight.requires_grad or values.requires_grad)
    reverse = graph.reverse if needs_gradients else (graph.ptr[:0], graph.src[:0])
    return _sum(graph.sort(weight), values, graph.src, graph.dst, graph.ptr, *reverse)


def scatter_edge_sum(weight: Tensor, values: Tensor, graph: EdgeGraph) -> Tensor:
    """Compute :func:`edge_sum` by PyTorch's operations; half precision in single precision."""
    src, dst = graph.edge_index[0], graph.edge_index[1]
    kind = compute_dtype(torch.promote_types(weight.dtype, values.dtype))
    summed = scatter_sum(
        weight.to(kind)[..., None] * values.to(kind).index_select(0, src), dst, graph.num_dst
    )
    return summed.to(values.dtype)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum the rows ``[E, ...]`` that have the same index, ``[size, ...]``."""
    flat = values.flatten(1)
    # scatter_add is parallel for an expanded index, whereas index_add is serial.
    out = flat.new_zeros(size, flat.shape[1])
    out = out.scatter_add(0, index[:, None].expand_as(flat), flat)
    return out.unflatten(1, values.shape[1:])


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("stofm_geo::edge_sum_cpu", mutates_args=(), device_types="cpu")
def _sum(
    weight: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
) -> Tensor:
    kind = compute_dtype(torch.promote_types(weight.dtype, values.dtype))
    out = values.new_empty(ptr.size(0) - 1, *values.shape[1:], dtype=kind)
    given = threads.as_arrays(kind, weight, values, src, ptr, out)
    weight_, values_, src_, ptr_, out_ = given
    threads.run_over_edges(
        loops.weighted_sums, ptr_, values_, weight_, values_, src_, ptr_, 1.0, out_
    )
    return out.to(values.dtype)


@_sum.register_fake
def _(weight, values, src, dst, ptr, *reverse):  # type: ignore[no-untyped-def]
    return values.new_empty(ptr.size(0) - 1, *values.shape[1:])


@torch.library.custom_op("stofm_geo::edge_sum_cpu_backward", mutates_args=(), device_types="cpu")
def _sum_backward(
    d_out: Tensor,
    weight: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
) -> tuple[Tensor, Tensor]:
    kind = compute_dtype(torch.promote_types(weight.dtype, values.dtype))
    d_weight, d_values = (torch.empty(t.shape, dtype=kind) for t in (weight, values))
    into_weight, into_values = threads.as_arrays(kind, d_weight, d_values)
    slope, values_, src_, ptr_ = threads.as_arrays(kind, d_out, values, src, ptr)
    threads.run_over_edges(
        loops.dot_products, ptr_, values_, slope, values_, src_, ptr_, into_weight
    )
    by_source = (reverse_ptr, weight.index_select(0, reverse_edges), dst[reverse_edges])
    ptr_, weight_, dst_ = threads.as_arrays(kind, *by_source)
    threads.run_over_edges(
        loops.weighted_sums, ptr_, slope, weight_, slope, dst_, ptr_, 1.0, into_values
    )
    return d_weight.to(weight.dtype), d_values.to(values.dtype)


@_sum_backward.register_fake
def _(d_out, weight, values, *graph):  # type: ignore[no-untyped-def]
    return weight.new_empty(weight.shape), values.new_empty(values.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, d_out):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():  # create_graph: this gradient may be differentiated
        weight, values, src, dst, *_ = ctx.saved_tensors
        kind = compute_dtype(torch.promote_types(weight.dtype, values.dtype))
        slope = d_out.to(kind).index_select(0, dst)
        d_weight = (slope * values.to(kind).index_select(0, src)).sum(-1)
        d_values = scatter_sum(weight.to(kind)[..., None] * slope, src, values.size(0))
        gradients = d_weight.to(weight.dtype), d_values.to(values.dtype)
    else:
        gradients = _sum_backward(d_out, *ctx.saved_tensors)
    return (*gradients, None, None, None, None, None)


_sum.register_autograd(_backward, setup_context=_setup_context)
