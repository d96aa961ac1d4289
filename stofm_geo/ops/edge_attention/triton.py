"""Fused edge attention for GPUs, in Triton: one pass over the edges forward, two backward.

A program walks the edges of one destination (or, for gradients of keys and values, of one source)
and of one block of heads. No tensor of edges x heads x channels is made, and there are no atomics:
the same input gives the same bytes. Triton is optional; PyTorch's CUDA builds bring it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, no_type_check

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except (ImportError, OSError) as error:  # OSError: built for another C library
    _REASON: str | None = f"triton cannot be imported ({error}); pip install triton"
else:
    _REASON = None


def _jit(kernel: Callable[..., Any]) -> Any:
    # Without triton the kernels stay plain functions, so that this module can be imported.
    return kernel if _REASON else triton.jit(kernel)


def unavailable(q: Tensor | None = None) -> str | None:
    """Return why the kernels cannot run (on ``q``), or ``None`` where they can.

    Under Triton's interpreter (``TRITON_INTERPRET=1`` from the start of the process) they run on
    the CPU, for tests.
    """
    if _REASON is not None:
        return _REASON
    compiled = [isinstance(kernel, triton.JITFunction) for kernel in (tl.sum, _attend)]
    if not any(compiled):
        return None
    if not all(compiled):  # halves that cannot call each other
        return "TRITON_INTERPRET was changed after triton was imported"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if q is not None and not q.is_cuda:
        return f"the tensors are on {q.device}"
    return None


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, src: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute edge attention.

    Args:
        q: Queries of the destinations ``[N, H, C]``.
        k: Keys of the sources ``[M, H, C]``.
        v: Values of the sources ``[M, H, D]``.
        bias: Additive logits ``[E, H]``; ``-inf`` hides an edge.
        src: Sources of the edges ``[E]``, sorted by destination.
        ptr: Where each destination's edges start ``[N + 1]``.

    Returns:
        The attended values ``[N, H, D]`` in the type of ``v``, the logits ``[E, H]`` and their
        log-sum-exp ``[N, H]``, both in the type of the sums: double if an input is, else single.
        Where a node has no edge, or all are hidden, values and log-sum-exp are 0.
    """
    (n, heads, channels), values = q.shape, v.size(2)
    kind = torch.float32
    for tensor in (q, k, v, bias):
        kind = torch.promote_types(kind, tensor.dtype)
    out = v.new_empty(n, heads, values)
    logits = bias.new_empty(bias.shape, dtype=kind)
    lse = q.new_empty(n, heads, dtype=kind)
    inputs = (t.contiguous() for t in (q, k, v, bias, src, ptr))
    _launch(_attend, n, (heads, channels, values), *inputs, logits, lse, out)
    return out, logits, lse


def backward(
    grad_out: Tensor,
    grad_logits: Tensor,
    grad_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    logits: Tensor,
    lse: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients from those of the three results of :func:`forward`.

    Args:
        grad_out: ``[N, H, D]``.
        grad_logits: ``[E, H]``.
        grad_lse: ``[N, H]``.
        q: As in :func:`forward`; so are ``k``, ``v``, ``src`` and ``ptr``.
        k: ``[M, H, C]``.
        v: ``[M, H, D]``.
        logits: As returned by :func:`forward`, ``[E, H]``; so is ``lse``.
        lse: ``[N, H]``.
        src: ``[E]``.
        dst: Destinations of the edges ``[E]``, ascending.
        ptr: ``[N + 1]``.
        reverse_ptr: Start of each source's edges in ``reverse_edges``, ``[M + 1]``.
        reverse_edges: Indices of the edges ``[E]``, sorted by source.

    Returns:
        Gradients of ``q``, ``k`` and ``v``, each in its dtype, and of the bias ``[E, H]`` in the
        dtype of ``logits``.
    """
    sizes = (*q.shape[1:], v.size(2))
    grad_out, grad_logits, grad_lse, q, k, v, logits, lse = (
        t.contiguous() for t in (grad_out, grad_logits, grad_lse, q, k, v, logits, lse)
    )
    src, dst, ptr, reverse_ptr, reverse_edges = (
        t.contiguous() for t in (src, dst, ptr, reverse_ptr, reverse_edges)
    )
    dq, dk, dv, dbias = (torch.empty_like(t) for t in (q, k, v, logits))
    grads = (grad_out, grad_logits, grad_lse)
    made = (logits, lse)
    _launch(_to_destinations, len(q), sizes, k, v, src, ptr, *made, *grads, dq, dbias)
    edges = (dst, reverse_ptr, reverse_edges)
    _launch(_to_sources, len(k), sizes, q, *edges, *made, grad_out, dbias, dk, dv)
    return dq, dk, dv, dbias


def _launch(kernel: Any, rows: int, sizes: tuple[int, int, int], *tensors: Tensor) -> None:
    heads, channels, values = sizes
    if not rows * heads:
        return
    block_c, block_d = _power_of_2(channels), _power_of_2(values)
    width = max(block_c, block_d)
    block_h = min(_power_of_2(heads), max(1, 1024 // width))
    # The warps share out a row, 16 bytes a thread, so that sums over edges stay within a thread;
    # and a thread holds that of 8 edges, enough loads under way, few enough registers.
    row = block_h * width * tensors[0].element_size()
    warps = min(max(row // 512, 1), 8)
    block_e = min(max(8 * 512 * warps // row, 1), 16)
    with torch.cuda.device_of(tensors[0]):
        kernel[rows, triton.cdiv(heads, block_h)](
            *tensors,
            channels**-0.5,
            heads,
            channels,
            values,
            BLOCK_E=block_e,
            BLOCK_H=block_h,
            BLOCK_C=block_c,
            BLOCK_D=block_d,
            num_warps=warps,
            num_stages=1,
            enable_fp_fusion=True,
        )


def _power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()


# In the kernels all that belongs to a node is of [1, BLOCK_H] or [1, BLOCK_H, channels], all that
# belongs to a block of edges of [BLOCK_E, BLOCK_H, ...]: one way to address both. Numbers of edges
# and nodes are int64, for tensors of more than 2^31 elements.


@_jit
@no_type_check
def _row_and_heads(BLOCK_H: tl.constexpr):
    """Return the row of this program ``[1]`` and its heads ``[BLOCK_H]``."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1], tl.int64)
    return row, tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)


@_jit
@no_type_check
def _places(rows, inside, heads, H: tl.constexpr):
    """Return the offsets of ``[rows, heads]`` in a tensor ``[..., H]``, and which are valid."""
    return rows[:, None] * H + heads[None, :], inside[:, None] & (heads < H)[None, :]


@_jit
@no_type_check
def _channels(places, inside, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the offsets of the channels of ``places`` in ``[..., H, C]``, and which are valid."""
    c = tl.arange(0, BLOCK_C)[None, None, :]
    return places[:, :, None] * C + c, inside[:, :, None] & (c < C)


@_jit
@no_type_check
def _load(tensor, places, inside, kind: tl.constexpr, other: tl.constexpr = 0.0):
    return tl.load(tensor + places, mask=inside, other=other).to(kind)


@_jit
@no_type_check
def _load_channels(
    tensor, places, inside, C: tl.constexpr, BLOCK_C: tl.constexpr, kind: tl.constexpr
):
    """Load the channels of ``places`` in ``tensor``, ``[rows, heads, BLOCK_C]``; 0 outside."""
    places, inside = _channels(places, inside, C, BLOCK_C)
    return tl.load(tensor + places, mask=inside, other=0.0).to(kind)


@_jit
@no_type_check
def _attend(
    q, k, v, bias, src, ptr, logits, lse, out,
    scale: tl.constexpr, H: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute one destination: online softmax, the sums rescaled when a larger logit appears."""
    kind: tl.constexpr = lse.dtype.element_ty
    row, heads = _row_and_heads(BLOCK_H)
    own, own_inside = _places(row, row >= 0, heads, H)
    own_q = _load_channels(q, own, own_inside, C, BLOCK_C, kind) * scale
    top = tl.full([1, BLOCK_H], float("-inf"), kind)
    total = tl.zeros([1, BLOCK_H], kind)
    summed = tl.zeros([1, BLOCK_H, BLOCK_D], kind)
    end = tl.load(ptr + tl.program_id(0) + 1)
    for first in range(tl.load(ptr + tl.program_id(0)), end, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        j = tl.load(src + e, mask=e < end, other=0)
        edge, inside = _places(e, e < end, heads, H)
        there, _ = _places(j, e < end, heads, H)
        tile = _load_channels(k, there, inside, C, BLOCK_C, kind)
        logit = tl.sum(own_q * tile, 2)
        logit += _load(bias, edge, inside, kind, float("-inf"))
        tl.store(logits + edge, logit, mask=inside)

        new = tl.maximum(top, tl.max(logit, 0, keep_dims=True))
        base = tl.where(new == float("-inf"), 0.0, new)  # all hidden so far
        weight = tl.exp(logit - base)
        fade = tl.exp(top - base)
        top = new
        total = total * fade + tl.sum(weight, 0, keep_dims=True)
        tile = _load_channels(v, there, inside, D, BLOCK_D, kind)
        summed = summed * fade[:, :, None] + tl.sum(weight[:, :, None] * tile, 0, keep_dims=True)

    top = tl.where(total == 0, 0.0, top)
    total = tl.where(total == 0, 1.0, total)
    tl.store(lse + own, top + tl.log(total), mask=own_inside)
    at, at_inside = _channels(own, own_inside, D, BLOCK_D)
    tl.store(out + at, summed / total[:, :, None], mask=at_inside)


@_jit
@no_type_check
def _to_destinations(
    k, v, src, ptr, logits, lse, d_out, d_logits, d_lse, d_q, d_bias,
    scale: tl.constexpr, H: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute for one destination the gradients of its query and of the logits of its edges."""
    kind: tl.constexpr = lse.dtype.element_ty
    row, heads = _row_and_heads(BLOCK_H)
    own, own_inside = _places(row, row >= 0, heads, H)
    slope = _load_channels(d_out, own, own_inside, D, BLOCK_D, kind)
    known = tl.zeros([1, BLOCK_H], kind)
    total = tl.zeros([1, BLOCK_H], kind)
    level = _load(lse, own, own_inside, kind)
    summed = tl.zeros([1, BLOCK_H, BLOCK_C], kind)
    start, end = tl.load(ptr + tl.program_id(0)), tl.load(ptr + tl.program_id(0) + 1)
    # The slope of the softmax needs a sum over all edges first; d_bias holds its terms meanwhile.
    for first in range(start, end, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        j = tl.load(src + e, mask=e < end, other=0)
        edge, inside = _places(e, e < end, heads, H)
        there, _ = _places(j, e < end, heads, H)
        tile = _load_channels(v, there, inside, D, BLOCK_D, kind)
        product = tl.sum(slope * tile, 2)
        # Outside, the weight is 0, and not the exponential of minus the level, which may be inf.
        alpha = tl.exp(_load(logits, edge, inside, kind, float("-inf")) - level)
        total += tl.sum(alpha, 0, keep_dims=True)
        known += tl.sum(alpha * product, 0, keep_dims=True)
        tl.store(d_bias + edge, product, mask=inside)
    tl.debug_barrier()  # other threads of this program read what was stored
    # Normalised once more: the log-sum-exp of large logits is rounded by percents.
    total = tl.where(total == 0, 1.0, total)
    known = _load(d_lse, own, own_inside, kind) - known / total
    for first in range(start, end, BLOCK_E):
        e = first + tl.arange(0, BLOCK_E)
        j = tl.load(src + e, mask=e < end, other=0)
        edge, inside = _places(e, e < end, heads, H)
        there, _ = _places(j, e < end, heads, H)
        alpha = tl.exp(_load(logits, edge, inside, kind, float("-inf")) - level)
        product = _load(d_bias, edge, inside, kind)
        d_logit = alpha / total * (product + known) + _load(d_logits, edge, inside, kind)
        tl.store(d_bias + edge, d_logit, mask=inside)
        tile = _load_channels(k, there, inside, C, BLOCK_C, kind)
        summed += tl.sum(d_logit[:, :, None] * tile, 0, keep_dims=True)
    at, at_inside = _channels(own, own_inside, C, BLOCK_C)
    tl.store(d_q + at, summed * scale, mask=at_inside)


@_jit
@no_type_check
def _to_sources(
    q, dst, ptr, edges, logits, lse, d_out, d_bias, d_k, d_v,
    scale: tl.constexpr, H: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Compute for one source the gradients of its key and value; ``edges`` are by source."""
    kind: tl.constexpr = lse.dtype.element_ty
    row, heads = _row_and_heads(BLOCK_H)
    own, own_inside = _places(row, row >= 0, heads, H)
    summed_k = tl.zeros([1, BLOCK_H, BLOCK_C], kind)
    summed_v = tl.zeros([1, BLOCK_H, BLOCK_D], kind)
    end = tl.load(ptr + tl.program_id(0) + 1)
    for first in range(tl.load(ptr + tl.program_id(0)), end, BLOCK_E):
        place = first + tl.arange(0, BLOCK_E)
        e = tl.load(edges + place, mask=place < end, other=0)
        i = tl.load(dst + e, mask=place < end, other=0)
        edge, inside = _places(e, place < end, heads, H)
        there, _ = _places(i, place < end, heads, H)
        d_logit = _load(d_bias, edge, inside, kind)
        tile = _load_channels(q, there, inside, C, BLOCK_C, kind)
        summed_k += tl.sum(d_logit[:, :, None] * tile, 0, keep_dims=True)
        alpha = _load(logits, edge, inside, kind, float("-inf"))
        alpha = tl.exp(alpha - _load(lse, there, inside, kind))
        tile = _load_channels(d_out, there, inside, D, BLOCK_D, kind)
        summed_v += tl.sum(alpha[:, :, None] * tile, 0, keep_dims=True)
    at, at_inside = _channels(own, own_inside, C, BLOCK_C)
    tl.store(d_k + at, summed_k * scale, mask=at_inside)
    at, at_inside = _channels(own, own_inside, D, BLOCK_D)
    tl.store(d_v + at, summed_v, mask=at_inside)
