"""Weighted sums of vectors that are rotated by edges, without a tensor of all messages."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.edge_sum import BACKENDS, compute_dtype, scatter_sum
from stofm_geo.ops.graph import EdgeGraph

try:
    from stofm_geo.ops import _rotation_loops as loops
except ImportError:  # no numba for this Python
    loops = None  # type: ignore[assignment]


def rotated_sum(
    weight: Tensor,
    radial: Tensor,
    unit: Tensor,
    values: Tensor,
    graph: EdgeGraph | Tensor,
    *,
    inverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Sum the vectors of the sources over the edges, rotated by the angle of each edge.

    .. math::
        o_{imh} = \sum_{j \to i} w_{jih} \, r_{jimh} \, R(m\theta_{ji}) \, v_{jmh}

    where :math:`R` is a rotation, and :math:`\theta_{ji}` the angle of the edge: vectors in the
    frame of each edge become vectors in the plane. Vectors along the edges, :math:`(u, 0)`, may be
    given by their first component alone. With ``inverse``, vectors in the plane are rotated by
    :math:`-m\theta_{ji}` into the frame of each edge. If they rotate with the positions, those of
    order :math:`m` by :math:`m` times the angle, the sum is then invariant: its first component is
    along the edges, its second one across.

    Args:
        weight: Weights of the edges by head, such as attention, ``[E, H]``, of any sign.
        radial: Weights of the edges by order and head, such as of their length, ``[E, M, H]``.
        unit: Circular harmonics :math:`(\cos m\theta, \sin m\theta)` of the edges, ``[E, M, 2]``.
        values: Vectors of the sources, ``[num_src, M, 2, V, H]``; or ``[num_src, M, 1, V, H]``,
            whose second component is 0.
        graph: ``[2, E]`` int64, rows source and destination, with as many destinations as sources;
            or an :class:`~stofm_geo.ops.EdgeGraph`.
        inverse: Rotate by minus the angle (default no).
        backend: ``"auto"`` (default): a kernel if there is one for these tensors; ``"reference"``:
            PyTorch's own operations.

    Returns:
        ``[N, M, 2, V, H]``, with gradients of any order to all four; 0 where a node has no edge.

    Raises:
        ValueError: Shapes do not match, or the backend is unknown.
        IndexError: An edge names a node that does not exist.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import rotated_sum
        >>> edge_index = torch.tensor([[1, 2], [0, 0]])
        >>> unit = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # one edge along x, one along y
        >>> along = torch.ones(3, 1, 1, 1, 1)
        >>> out = rotated_sum(torch.ones(2, 1), torch.ones(2, 1, 1), unit, along, edge_index)
        >>> out[0].flatten().tolist()
        [1.0, 1.0]
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {list(BACKENDS)}")
    if not isinstance(graph, EdgeGraph):
        graph = EdgeGraph(graph, values.size(0))
    edges = graph.edge_index.size(1)
    if values.dim() != 5 or values.size(0) != graph.num_src or values.size(2) not in (1, 2):
        raise ValueError(
            f"values must be [{graph.num_src}, M, 1 or 2, V, H]; found {list(values.shape)}"
        )
    orders, heads = values.size(1), values.size(4)
    for name, tensor, sizes, expected in (
        ("weight", weight, "[E, H]", [edges, heads]),
        ("radial", radial, "[E, M, H]", [edges, orders, heads]),
        ("unit", unit, "[E, M, 2]", [edges, orders, 2]),
    ):
        if list(tensor.shape) != expected:
            raise ValueError(f"{name} must be {sizes} = {expected}; found {list(tensor.shape)}")
    sign = -1 if inverse else 1
    plain = backend == "reference" or loops is None or needs_plain_operations()
    if plain or values.device.type != "cpu":
        src, dst = graph.edge_index[0], graph.edge_index[1]
        return _scatter(weight, radial, unit, values, src, dst, sign, graph.num_dst)
    inputs = (weight, radial, unit, values)
    needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    reverse = graph.reverse if needs_gradients else (graph.ptr[:0], graph.src[:0])
    of_edges = map(graph.sort, (weight, radial, unit))
    return _sum(*of_edges, values, graph.src, graph.dst, graph.ptr, *reverse, sign)


def rotate(cos: Tensor, sin: Tensor, vectors: Tensor) -> Tensor:
    """Rotate vectors by angles.

    Args:
        cos: Cosines of the angles, to be multiplied with a component ``[..., V, H]``.
        sin: Sines.
        vectors: ``[..., 2, V, H]``, or ``[..., 1, V, H]`` whose second component is 0.

    Returns:
        ``[..., 2, V, H]``.
    """
    if vectors.size(-3) == 1:
        x = vectors.squeeze(-3)
        return torch.stack([cos * x, sin * x], dim=-3)
    x, y = vectors.unbind(-3)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-3)


def _scatter(
    weight: Tensor,
    radial: Tensor,
    unit: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    sign: int,
    size: int,
) -> Tensor:
    """Compute the sum by PyTorch's operations; half precision in single precision."""
    kind = _kind(weight, radial, unit, values)
    cos, sin = _weighted(weight.to(kind)[:, None] * radial.to(kind), unit.to(kind), sign)
    messages = rotate(cos, sin, values.to(kind).index_select(0, src))
    return scatter_sum(messages, dst, size).to(values.dtype)


def _weighted(weight: Tensor, unit: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Return weighted cosines and sines of the edges, ``[E, M, 1, H]``."""
    cos, sin = unit[..., None].unbind(2)
    return (weight * cos)[:, :, None], (weight * (sign * sin))[:, :, None]


def _kind(*tensors: Tensor) -> torch.dtype:
    kind = tensors[0].dtype
    for tensor in tensors[1:]:
        kind = torch.promote_types(kind, tensor.dtype)
    return compute_dtype(kind)


@torch.library.custom_op("stofm_geo::rotated_sum_cpu", mutates_args=(), device_types="cpu")
def _sum(
    weight: Tensor,
    radial: Tensor,
    unit: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
    sign: int,
) -> Tensor:
    kind = _kind(weight, radial, unit, values)
    shape = (ptr.size(0) - 1, values.size(1), 2, *values.shape[3:])
    out = values.new_empty(shape, dtype=kind)
    *given, ptr_, out_ = threads.as_arrays(kind, weight, radial, unit, values, src, ptr, out)
    threads.run_over_edges(loops.rotated_sums, ptr_, given[3], *given, ptr_, sign, out_)
    return out.to(values.dtype)


@_sum.register_fake
def _(weight, radial, unit, values, src, dst, ptr, *rest):  # type: ignore[no-untyped-def]
    return values.new_empty(ptr.size(0) - 1, values.size(1), 2, *values.shape[3:])


@torch.library.custom_op("stofm_geo::rotated_sum_cpu_backward", mutates_args=(), device_types="cpu")
def _sum_backward(
    d_out: Tensor,
    weight: Tensor,
    radial: Tensor,
    unit: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
    sign: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (weight, radial, unit, values)
    kind = _kind(*inputs)
    gradients = [torch.empty(t.shape, dtype=kind) for t in inputs]
    *of_edges, d_values = threads.as_arrays(kind, *gradients)
    slope, *given = threads.as_arrays(kind, d_out, *inputs, src, ptr)
    *inputs_, src_, ptr_ = given
    parts = (*inputs_, slope, src_, ptr_, sign, *of_edges)
    threads.run_over_edges(loops.rotated_products, ptr_, inputs_[3], *parts)
    # Copied in this order first: reading weights at random in the loop takes twice as long.
    by_source = (t.index_select(0, reverse_edges) for t in (weight, radial, unit, dst))
    *of_edges, dst_, ptr_ = threads.as_arrays(kind, *by_source, reverse_ptr)
    parts = (*of_edges, slope, dst_, ptr_, -sign, d_values)
    threads.run_over_edges(loops.rotated_sums, ptr_, slope, *parts)
    d_weight, d_radial, d_unit, d_v = (
        gradient.to(t.dtype) for gradient, t in zip(gradients, inputs, strict=True)
    )
    return d_weight, d_radial, d_unit, d_v


@_sum_backward.register_fake
def _(d_out, weight, radial, unit, values, *rest):  # type: ignore[no-untyped-def]
    return tuple(tensor.new_empty(tensor.shape) for tensor in (weight, radial, unit, values))


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.sign = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, d_out):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():  # create_graph: this gradient may be differentiated
        *inputs, src, dst = ctx.saved_tensors[:6]
        gradients = _plain_backward(d_out, *inputs, src, dst, ctx.sign)
    else:
        gradients = _sum_backward(d_out, *ctx.saved_tensors, ctx.sign)
    return (*gradients, None, None, None, None, None, None)


def _plain_backward(
    d_out: Tensor,
    weight: Tensor,
    radial: Tensor,
    unit: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    sign: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by operations that can be differentiated again."""
    inputs = (weight, radial, unit, values)
    kind = _kind(*inputs)
    weight, radial, unit, x = (t.to(kind) for t in inputs)
    slope, x = d_out.to(kind).index_select(0, dst), x.index_select(0, src)
    # With respect to weighted cosines and sines, [E, M, 2, H].
    ones, zeros = slope.new_ones(()), slope.new_zeros(())
    turned = rotate(zeros, sign * ones, x)
    straight = rotate(ones, zeros, x)
    d_weighted = torch.stack([(slope * part).sum((2, 3)) for part in (straight, turned)], dim=2)
    d_product = (d_weighted * unit[..., None]).sum(2)
    product = weight[:, None] * radial
    d_unit = (d_weighted * product[:, :, None]).sum(3)
    cos, sin = _weighted(product, unit, -sign)
    d_values = scatter_sum(rotate(cos, sin, slope), src, values.size(0))[:, :, : values.size(2)]
    gradients = (d_product * radial).sum(1), d_product * weight[:, None], d_unit, d_values
    d_weight, d_radial, d_unit, d_values = (
        gradient.to(t.dtype) for gradient, t in zip(gradients, inputs, strict=True)
    )
    return d_weight, d_radial, d_unit, d_values


_sum.register_autograd(_backward, setup_context=_setup_context)
