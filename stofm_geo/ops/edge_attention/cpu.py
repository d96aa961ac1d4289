"""Edge attention for the CPU: a pass over the edges for each of q, k and v, without atomics.

No tensor of edges x heads x channels is made. numba compiles the loops at their first use (seconds)
and caches them on disk; nothing is compiled at installation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops import threads

try:
    from stofm_geo.ops import sums
    from stofm_geo.ops.edge_attention import _loops
except ImportError as error:  # no numba for this Python
    _REASON: str | None = f"numba cannot be imported ({error}); pip install numba"
else:
    _REASON = None


def unavailable(q: Tensor | None = None) -> str | None:
    """Return why the kernel cannot run here (on ``q``), or ``None`` where it can."""
    if _REASON is None and q is not None and q.device.type != "cpu":
        return f"the tensors are on {q.device}"
    return _REASON


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, src: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute edge attention; half precision is computed in single precision.

    Args:
        q: Queries of the destinations ``[N, H, C]``.
        k: Keys of the sources ``[M, H, C]``.
        v: Values of the sources ``[M, H, D]``.
        bias: Bias of the logits ``[E, H]``; ``-inf`` masks an edge.
        src: Sources of the edges ``[E]``, sorted by destination.
        ptr: Start of each destination's edges ``[N + 1]``.

    Returns:
        Attended values ``[N, H, D]``, logits ``[E, H]`` and their log-sum-exp ``[N, H]``.
    """
    n, heads, _ = q.shape
    logits, alpha = (bias.new_empty(src.size(0), heads) for _ in range(2))
    out, lse = bias.new_empty(n, heads, v.size(2)), bias.new_empty(n, heads)
    q_, k_, v_, bias_ = threads.as_arrays(bias.dtype, q, k, v, bias)
    logits_, alpha_, out_, lse_ = threads.as_arrays(bias.dtype, logits, alpha, out, lse)
    src_, ptr_ = threads.as_arrays(bias.dtype, src, ptr)
    threads.run_over_edges(
        _loops.weights, ptr_, k_, q_, k_, bias_, src_, ptr_, logits_, alpha_, lse_
    )
    threads.run_over_edges(sums.weighted_sums, ptr_, v_, alpha_, v_, src_, ptr_, 1.0, out_)
    return out.to(v.dtype), logits, lse


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of ``q``, ``k``, ``v`` and ``bias``.

    Args:
        d_out: Gradient of the output; ``d_logits``, ``d_lse`` accordingly.
        q: As in :func:`forward`, with the logits and ``lse`` that it returned.
        dst: Destinations of the edges ``[E]``, ascending.
        reverse_ptr: Start of each source's edges ``[M + 1]``.
        reverse_edges: Indices of the edges, sorted by source ``[E]``.
    """
    kind, scale = logits.dtype, q.size(2) ** -0.5
    made = tuple(torch.empty(t.shape, dtype=kind) for t in (q, k, v, logits))
    alpha = torch.empty_like(logits)
    d_q, d_k, d_v, d_bias, alpha_ = threads.as_arrays(kind, *made, alpha)
    q_, k_, v_, logits_, lse_ = threads.as_arrays(kind, q, k, v, logits, lse)
    grads = threads.as_arrays(kind, d_out, d_logits, d_lse)
    src_, ptr_, reverse_ptr_ = threads.as_arrays(kind, src, ptr, reverse_ptr)
    threads.run_over_edges(
        _loops.softmax_backward, ptr_, v_, v_, logits_, lse_, src_, ptr_, *grads, d_bias, alpha_
    )
    threads.run_over_edges(sums.weighted_sums, ptr_, k_, d_bias, k_, src_, ptr_, scale, d_q)
    # By source; what belongs to edges is put into that order first: weights met here and there
    # took twice as long.
    (dst_,) = threads.as_arrays(kind, dst.index_select(0, reverse_edges))
    for weight, x, factor, into in ((made[3], q_, scale, d_k), (alpha, grads[0], 1.0, d_v)):
        (weight_,) = threads.as_arrays(kind, weight.index_select(0, reverse_edges))
        threads.run_over_edges(
            sums.weighted_sums, reverse_ptr_, x, weight_, x, dst_, reverse_ptr_, factor, into
        )
    return made[0].to(q.dtype), made[1].to(k.dtype), made[2].to(v.dtype), made[3]
