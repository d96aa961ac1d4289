"""Edge attention fused for the CPU: one pass over the edges forward, two backward, no atomics.

No tensor of edges x heads x channels is made. numba compiles the loops at their first use (seconds)
and keeps them on disk; nothing is compiled at installation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.graph import EdgeGraph

try:
    from stofm_geo.ops.edge_attention import _loops
except ImportError as error:  # no numba for this Python
    _REASON: str | None = f"numba cannot be imported ({error}); pip install numba"
else:
    _REASON = None


def unavailable(q: Tensor | None = None) -> str | None:
    """Why the kernel cannot run here (on ``q``), or ``None`` where it can."""
    if _REASON is None and q is not None and q.device.type != "cpu":
        return f"the tensors are on {q.device}"
    return _REASON


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: EdgeGraph
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`stofm_geo.ops.edge_attention`."""
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    needs_gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, bias))
    reverse = graph.reverse if needs_gradients else (graph.ptr[:0], graph.src[:0])
    out, logits, lse = _attend(
        q.to(kind), k.to(kind), v.to(kind), bias.to(kind), graph.src, graph.dst, graph.ptr, *reverse
    )
    return out.to(v.dtype), logits, lse


@torch.library.custom_op("stofm_geo::edge_attention_cpu", mutates_args=(), device_types="cpu")
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    n, heads, channels = q.shape
    out = q.new_empty(n, heads, v.size(2))
    logits = q.new_empty(src.size(0), heads)
    lse = q.new_empty(n, heads)
    given = _arrays(q, k, v, bias, src, ptr)
    made = _arrays(logits, out, lse)
    threads.run(
        lambda first, last: _loops.forward(first, last, *given, *made),
        given[-1],
        src.size(0) * heads * (channels + v.size(2)) // 1000,
    )
    return out, logits, lse


@_attend.register_fake
def _(q, k, v, bias, src, dst, ptr, reverse_ptr, reverse_edges):  # type: ignore[no-untyped-def]
    n, heads, _ = q.shape
    return (
        q.new_empty(n, heads, v.size(2)),
        q.new_empty(src.size(0), heads),
        q.new_empty(n, heads),
    )


@torch.library.custom_op(
    "stofm_geo::edge_attention_cpu_backward", mutates_args=(), device_types="cpu"
)
def _attend_backward(
    d_out: Tensor,
    d_logits: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logits: Tensor,
    lse: Tensor,
    src: Tensor,
    dst: Tensor,
    ptr: Tensor,
    reverse_ptr: Tensor,
    reverse_edges: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, heads, channels = q.shape
    made = (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        logits.new_empty(logits.shape),
    )
    d_q, d_k, d_v, d_bias = _arrays(*made)
    alpha = np.empty_like(d_bias)
    q_, k_, v_, logits_, out_, lse_ = _arrays(q, k, v, logits, out, lse)
    src_, dst_, ptr_, reverse_ptr_, reverse_edges_ = _arrays(
        src, dst, ptr, reverse_ptr, reverse_edges
    )
    d_out_, d_logits_, d_lse_ = _arrays(d_out, d_logits, d_lse)
    cost = src.size(0) * heads * (channels + v.size(2)) // 1000
    threads.run(
        lambda first, last: _loops.to_destinations(
            first, last, q_, k_, v_, logits_, out_, lse_, src_, ptr_, d_out_, d_logits_, d_lse_,
            d_q, d_bias, alpha,
        ),
        ptr_,
        cost,
    )  # fmt: skip
    threads.run(
        lambda first, last: _loops.to_sources(
            first, last, q_, d_out_, d_bias, alpha, dst_, reverse_ptr_, reverse_edges_, d_k, d_v
        ),
        reverse_ptr_,
        cost,
    )
    return made


@_attend_backward.register_fake
def _(d_out, d_logits, d_lse, q, k, v, out, logits, *graph):  # type: ignore[no-untyped-def]
    return _like(q), _like(k), _like(v), _like(logits)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, _, *graph = inputs
    ctx.save_for_backward(q, k, v, *output, *graph)


def _backward(ctx, d_out, d_logits, d_lse):  # type: ignore[no-untyped-def]
    gradients = _attend_backward(d_out, d_logits, d_lse, *ctx.saved_tensors)
    return (*gradients, None, None, None, None, None)


_attend.register_autograd(_backward, setup_context=_setup_context)


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
