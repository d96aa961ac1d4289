"""Rotation invariants of vectors: lengths, inner products and cross products."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.edge_sum import BACKENDS, compute_dtype

try:
    from stofm_geo.ops import _invariant_loops as loops
except ImportError:  # no numba for this Python
    loops = None  # type: ignore[assignment]

_SMALL = 1e-2  # mean square length below which vectors are not scaled to 1


def vector_invariants(
    vectors: Tensor, pairs: Tensor, *, cross: bool = True, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""Compute invariants of vectors, and of linear maps of them, per node and order.

    .. math::
        \lvert \vec v_w \rvert, \qquad
        s^2 \, \vec a_w \cdot \vec b_w, \qquad
        s^2 \, \vec a_w \times \vec b_w, \qquad
        s = \Big(\tfrac{1}{W} \sum_w \lvert \vec v_w \rvert^2 + 0.01\Big)^{-1/2}

    where the pairs :math:`(\vec a, \vec b)` are linear in the vectors :math:`\vec v`, so that
    their products are those of vectors scaled to a root mean square of about 1.

    Args:
        vectors: ``[N, M, 2, W]`` (nodes, orders, components, channels).
        pairs: :math:`\vec a`, then :math:`\vec b`, ``[M, N, 2, 2 W]``.
        cross: Whether to compute cross products (default), which change sign under reflection.
        backend: ``"auto"`` (default): a kernel if there is one for these tensors; ``"reference"``:
            PyTorch's own operations.

    Returns:
        Lengths, inner products and cross products ``[N, M, 3, W]`` (2 without ``cross``), and the
        scale :math:`s` ``[N, M]``, with gradients of any order. The gradient of the length is 0
        where it is 0.

    Raises:
        ValueError: Shapes do not match, or the backend is unknown.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import vector_invariants
        >>> vectors = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).view(1, 1, 2, 2)
        >>> pairs = torch.cat([vectors, vectors.flip(3)], dim=3)
        >>> invariants, scale = vector_invariants(vectors, pairs)
        >>> (invariants / scale**2).flatten()[2:].round().tolist()  # (3, 4) and (1, 0), both ways
        [3.0, 3.0, -4.0, 4.0]
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {list(BACKENDS)}")
    if vectors.dim() != 4 or vectors.size(2) != 2:
        raise ValueError(f"vectors must be [N, M, 2, W]; found {list(vectors.shape)}")
    nodes, orders, _, width = vectors.shape
    if pairs.shape != (orders, nodes, 2, 2 * width):
        expected = [orders, nodes, 2, 2 * width]
        raise ValueError(f"pairs must be [M, N, 2, 2 W] = {expected}; found {list(pairs.shape)}")
    plain = backend == "reference" or loops is None or needs_plain_operations()
    if plain or vectors.device.type != "cpu":
        return _plain(vectors, pairs, cross)
    return _fused(vectors, pairs, cross)


def _plain(vectors: Tensor, pairs: Tensor, cross: bool) -> tuple[Tensor, Tensor]:
    # Squares of half precision overflow from 256 on.
    kind = compute_dtype(torch.promote_types(vectors.dtype, pairs.dtype))
    square = vectors.to(kind).square().sum(dim=2)
    scale = torch.rsqrt(square.mean(dim=2) + _SMALL)
    # Gradient 0 (not NaN) where the length is 0.
    parts = [square.clamp(min=torch.finfo(kind).tiny).sqrt()]
    a, b = pairs.to(kind).transpose(0, 1).chunk(2, dim=3)
    (x1, y1), (x2, y2) = a.unbind(2), b.unbind(2)
    factor = scale.square()[..., None]
    parts.append(factor * (x1 * x2 + y1 * y2))
    if cross:
        parts.append(factor * (x1 * y2 - y1 * x2))
    return torch.stack(parts, dim=2).to(vectors.dtype), scale.to(vectors.dtype)


@torch.library.custom_op("stofm_geo::vector_invariants_cpu", mutates_args=(), device_types="cpu")
def _fused(vectors: Tensor, pairs: Tensor, cross: bool) -> tuple[Tensor, Tensor]:
    nodes, orders, _, width = vectors.shape
    kind = compute_dtype(torch.promote_types(vectors.dtype, pairs.dtype))
    out = vectors.new_empty((nodes, orders, 2 + cross, width), dtype=kind)
    scale = vectors.new_empty((nodes, orders), dtype=kind)
    arrays = threads.as_arrays(kind, vectors, pairs, out, scale)
    constants = _SMALL, torch.finfo(kind).tiny
    threads.run_over_nodes(loops.invariants, nodes, orders * width, *arrays, *constants)
    return out.to(vectors.dtype), scale.to(vectors.dtype)


@_fused.register_fake
def _(vectors, pairs, cross):  # type: ignore[no-untyped-def]
    nodes, orders, _, width = vectors.shape
    return vectors.new_empty(nodes, orders, 2 + cross, width), vectors.new_empty(nodes, orders)


@torch.library.custom_op(
    "stofm_geo::vector_invariants_cpu_backward", mutates_args=(), device_types="cpu"
)
def _fused_backward(
    d_out: Tensor, d_scale: Tensor, vectors: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor]:
    kind = compute_dtype(torch.promote_types(vectors.dtype, pairs.dtype))
    d_vectors, d_pairs = (torch.empty(t.shape, dtype=kind) for t in (vectors, pairs))
    arrays = threads.as_arrays(kind, d_out, d_scale, vectors, pairs, d_vectors, d_pairs)
    constants = _SMALL, torch.finfo(kind).tiny
    nodes, orders, _, width = vectors.shape
    threads.run_over_nodes(loops.gradients, nodes, orders * width, *arrays, *constants)
    return d_vectors.to(vectors.dtype), d_pairs.to(pairs.dtype)


@_fused_backward.register_fake
def _(d_out, d_scale, vectors, pairs):  # type: ignore[no-untyped-def]
    return vectors.new_empty(vectors.shape), pairs.new_empty(pairs.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    vectors, pairs, ctx.cross = inputs
    ctx.save_for_backward(vectors, pairs)


def _backward(ctx, d_out, d_scale):  # type: ignore[no-untyped-def]
    vectors, pairs = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return (*_fused_backward(d_out, d_scale, vectors, pairs), None)
    # create_graph: this gradient may be differentiated, too. Views, since pairs may be computed
    # from the vectors: the gradient must not follow that path.
    inputs = vectors.view_as(vectors), pairs.view_as(pairs)
    results = zip(_plain(*inputs, ctx.cross), (d_out, d_scale), strict=True)
    outputs, slopes = zip(*((out, d) for out, d in results if out.requires_grad), strict=True)
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(outputs, needed, slopes, create_graph=True))
    return (*(next(found) if tensor.requires_grad else None for tensor in inputs), None)


_fused.register_autograd(_backward, setup_context=_setup_context)
