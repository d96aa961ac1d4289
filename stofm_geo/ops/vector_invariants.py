"""Rotation invariants of vectors: lengths, inner products and cross products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.edge_sum import compute_dtype

try:
    from stofm_geo.ops import _invariant_loops as loops
except ImportError:  # no numba for this Python
    loops = None  # type: ignore[assignment]

_SMALL = 1e-2  # mean square length below which vectors are not scaled to 1


def scale_vectors(vectors: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    r"""Scale the vectors of each node and order to a root mean square of about 1.

    .. math::
        \hat v_w = \frac{\vec v_w}{\sqrt{\frac{1}{W} \sum_u \lvert \vec v_u \rvert^2 + 0.01}}

    Args:
        vectors: ``[N, M, 2, W]`` (nodes, orders, components, channels).
        backend: ``"auto"`` (default): a kernel if there is one for these tensors; ``"reference"``:
            PyTorch's own operations.

    Returns:
        Scaled vectors ``[M, N, 2, W]``, by order as linear maps take them, and the lengths
        before ``[N, M, W]``, with gradients of any order. The gradient of a length is 0 where the
        length is 0.
    """
    if _kernel_fits(vectors, backend):
        return _scale(vectors)
    return _plain_scale(vectors)


def vector_invariants(
    lengths: Tensor, pairs: Tensor, *, cross: bool = True, backend: str = "auto"
) -> Tensor:
    r"""Join lengths with inner products and cross products of pairs of vectors.

    Args:
        lengths: Lengths of vectors ``[N, M, W]``.
        pairs: Vectors :math:`\vec a`, then as many :math:`\vec b`, ``[M, N, 2, 2 W]``.
        cross: Whether to compute cross products (default), which change sign under reflection.
        backend: As in :func:`scale_vectors`.

    Returns:
        Lengths, :math:`\vec a_w \cdot \vec b_w`, and with ``cross`` :math:`\vec a_w \times \vec
        b_w`, ``[N, M, K, W]`` with ``K`` 2 or 3, with gradients of any order.
    """
    if _kernel_fits(pairs, backend):
        return _products(lengths, pairs, cross)
    return _plain_products(lengths, pairs, cross)


def _kernel_fits(tensor: Tensor, backend: str) -> bool:
    plain = backend == "reference" or loops is None or needs_plain_operations()
    return not plain and tensor.device.type == "cpu"


def _plain_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    # Squares of half precision overflow from 256 on.
    wide = vectors.to(compute_dtype(vectors.dtype)).transpose(0, 1)
    square = wide.square().sum(dim=2)
    scale = torch.rsqrt(square.mean(dim=2, keepdim=True) + _SMALL)[:, :, None]
    # Gradient 0 (not NaN) where the length is 0.
    lengths = square.clamp(min=torch.finfo(wide.dtype).tiny).sqrt().transpose(0, 1)
    return (wide * scale).to(vectors.dtype), lengths.to(vectors.dtype)


def _plain_products(lengths: Tensor, pairs: Tensor, cross: bool) -> Tensor:
    kind = compute_dtype(pairs.dtype)
    a, b = pairs.to(kind).transpose(0, 1).chunk(2, dim=3)
    (x1, y1), (x2, y2) = a.unbind(2), b.unbind(2)
    parts = [lengths.to(kind), x1 * x2 + y1 * y2]
    if cross:
        parts.append(x1 * y2 - y1 * x2)
    return torch.stack(parts, dim=2).to(pairs.dtype)


@torch.library.custom_op("stofm_geo::scale_vectors_cpu", mutates_args=(), device_types="cpu")
def _scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    nodes, orders, _, width = vectors.shape
    kind = compute_dtype(vectors.dtype)
    scaled = vectors.new_empty((orders, nodes, 2, width), dtype=kind)
    lengths = vectors.new_empty((nodes, orders, width), dtype=kind)
    _run(loops.scale, kind, (vectors, scaled, lengths), nodes, _SMALL, torch.finfo(kind).tiny)
    return scaled.to(vectors.dtype), lengths.to(vectors.dtype)


@_scale.register_fake
def _(vectors):  # type: ignore[no-untyped-def]
    nodes, orders, _, width = vectors.shape
    return vectors.new_empty(orders, nodes, 2, width), vectors.new_empty(nodes, orders, width)


@torch.library.custom_op(
    "stofm_geo::scale_vectors_cpu_backward", mutates_args=(), device_types="cpu"
)
def _scale_backward(d_scaled: Tensor, d_lengths: Tensor, vectors: Tensor) -> Tensor:
    kind = compute_dtype(vectors.dtype)
    made = torch.empty(vectors.shape, dtype=kind)
    given = d_scaled, d_lengths, vectors, made
    constants = _SMALL, torch.finfo(kind).tiny
    _run(loops.scale_gradients, kind, given, vectors.size(0), *constants)
    return made.to(vectors.dtype)


@_scale_backward.register_fake
def _(d_scaled, d_lengths, vectors):  # type: ignore[no-untyped-def]
    return vectors.new_empty(vectors.shape)


@torch.library.custom_op("stofm_geo::vector_invariants_cpu", mutates_args=(), device_types="cpu")
def _products(lengths: Tensor, pairs: Tensor, cross: bool) -> Tensor:
    nodes, orders, width = lengths.shape
    kind = compute_dtype(pairs.dtype)
    out = pairs.new_empty((nodes, orders, 2 + cross, width), dtype=kind)
    _run(loops.products, kind, (lengths, pairs, out), nodes)
    return out.to(pairs.dtype)


@_products.register_fake
def _(lengths, pairs, cross):  # type: ignore[no-untyped-def]
    nodes, orders, width = lengths.shape
    return pairs.new_empty(nodes, orders, 2 + cross, width)


@torch.library.custom_op(
    "stofm_geo::vector_invariants_cpu_backward", mutates_args=(), device_types="cpu"
)
def _products_backward(d_out: Tensor, lengths: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    kind = compute_dtype(pairs.dtype)
    d_lengths, d_pairs = (torch.empty(t.shape, dtype=kind) for t in (lengths, pairs))
    given = d_out, pairs, d_lengths, d_pairs
    _run(loops.product_gradients, kind, given, lengths.size(0))
    return d_lengths.to(lengths.dtype), d_pairs.to(pairs.dtype)


@_products_backward.register_fake
def _(d_out, lengths, pairs):  # type: ignore[no-untyped-def]
    return lengths.new_empty(lengths.shape), pairs.new_empty(pairs.shape)


def _run(loop: Any, kind: torch.dtype, tensors: tuple, nodes: int, *constants: float) -> None:
    arrays = threads.as_arrays(kind, *tensors)
    numbers = sum(array.size for array in arrays) // max(nodes, 1)
    threads.run_over_nodes(loop, nodes, numbers, *arrays, *constants)


def _save_vectors(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _save_pairs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    lengths, pairs, ctx.cross = inputs
    ctx.save_for_backward(lengths, pairs)


def _backward_of_scale(ctx, d_scaled, d_lengths):  # type: ignore[no-untyped-def]
    (vectors,) = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return _scale_backward(d_scaled, d_lengths, vectors)
    return _differentiable(_plain_scale, (vectors,), (d_scaled, d_lengths))[0]


def _backward_of_products(ctx, d_out):  # type: ignore[no-untyped-def]
    lengths, pairs = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return (*_products_backward(d_out, lengths, pairs), None)

    def function(lengths: Tensor, pairs: Tensor) -> tuple[Tensor]:
        return (_plain_products(lengths, pairs, ctx.cross),)

    return (*_differentiable(function, (lengths, pairs), (d_out,)), None)


def _differentiable(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    slopes: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Return gradients that may be differentiated again (``create_graph``)."""
    # Views: one input may be computed from another, and its gradient must not follow that path.
    views = [tensor.view_as(tensor) for tensor in inputs]
    needed = [view for view in views if view.requires_grad]
    found = iter(torch.autograd.grad(function(*views), needed, slopes, create_graph=True))
    return [next(found) if view.requires_grad else None for view in views]


_scale.register_autograd(_backward_of_scale, setup_context=_save_vectors)
_products.register_autograd(_backward_of_products, setup_context=_save_pairs)
