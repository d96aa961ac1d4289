"""The fused kernels as one PyTorch operator, with gradients and support for torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops.edge_attention import cpu, triton
from stofm_geo.ops.edge_attention.reference import softmax
from stofm_geo.ops.edge_sum import compute_dtype, scatter_sum
from stofm_geo.ops.graph import EdgeGraph

KERNELS = {"cpu": cpu, "triton": triton}


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: EdgeGraph, kernel: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`stofm_geo.ops.edge_attention` by a fused kernel."""
    kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    needs_gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, bias))
    reverse = graph.reverse if needs_gradients else (graph.ptr[:0], graph.src[:0])
    out, logits, lse = _attend(
        q.to(kind),
        k.to(kind),
        v.to(kind),
        graph.sort(bias).to(compute_dtype(kind)),
        graph.src,
        graph.dst,
        graph.ptr,
        *reverse,
        kernel,
    )
    return out.to(v.dtype), graph.unsort(logits), lse


@torch.library.custom_op("stofm_geo::edge_attention", mutates_args=())
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
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return KERNELS[kernel].forward(q, k, v, bias, src, ptr)


@_attend.register_fake
def _(q, k, v, bias, src, *rest):  # type: ignore[no-untyped-def]
    n, heads, _ = q.shape
    kind = compute_dtype(q.dtype)
    return (
        v.new_empty(n, heads, v.size(2)),
        q.new_empty(src.size(0), heads, dtype=kind),
        q.new_empty(n, heads, dtype=kind),
    )


@torch.library.custom_op("stofm_geo::edge_attention_backward", mutates_args=())
def _attend_backward(
    d_out: Tensor,
    d_logits: Tensor,
    d_lse: Tensor,
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
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (d_out, d_logits, d_lse, q, k, v, logits, lse)
    return KERNELS[kernel].backward(*given, src, dst, ptr, reverse_ptr, reverse_edges)


@_attend_backward.register_fake
def _(d_out, d_logits, d_lse, q, k, v, logits, *rest):  # type: ignore[no-untyped-def]
    return tuple(t.new_empty(t.shape) for t in (q, k, v, logits))


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, _, *graph, ctx.kernel = inputs
    # Not the attended values: users change them in place, as nn.ReLU(inplace=True) does.
    ctx.save_for_backward(q, k, v, *output[1:], *graph)


def _backward(ctx, d_out, d_logits, d_lse):  # type: ignore[no-untyped-def]
    slopes = d_out, d_logits, d_lse
    if torch.is_grad_enabled():  # create_graph: this gradient is differentiated, too
        q, k, v, logits, _, src, dst, *_ = ctx.saved_tensors
        gradients = _differentiable_backward(*slopes, q, k, v, logits, src, dst)
    else:
        gradients = _attend_backward(*slopes, *ctx.saved_tensors, ctx.kernel)
    return (*gradients, None, None, None, None, None, None)


def _differentiable_backward(
    d_out: Tensor,
    d_logits: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    logits: Tensor,
    src: Tensor,
    dst: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the kernels' backward by operations that are differentiable themselves."""
    kind, scale = logits.dtype, q.size(2) ** -0.5
    own_q, own_d_out = q.to(kind).index_select(0, dst), d_out.to(kind).index_select(0, dst)
    alpha, _ = softmax(logits, dst, q.size(0))
    slope = (own_d_out * v.to(kind).index_select(0, src)).sum(-1)
    known = d_lse - scatter_sum(alpha * slope, dst, q.size(0))
    d_bias = alpha * (slope + known.index_select(0, dst)) + d_logits
    weight = d_bias[..., None] * scale
    d_q = scatter_sum(weight * k.to(kind).index_select(0, src), dst, q.size(0))
    d_k = scatter_sum(weight * own_q, src, k.size(0))
    d_v = scatter_sum(alpha[..., None] * own_d_out, src, v.size(0))
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_bias


_attend.register_autograd(_backward, setup_context=_setup_context)
