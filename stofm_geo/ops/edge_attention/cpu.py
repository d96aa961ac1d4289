"""Edge attention fused for the CPU: one pass over the edges forward, two backward, no atomics.

No tensor of edges x heads x channels is made. numba compiles the loops at their first use (seconds)
and keeps them on disk; nothing is compiled at installation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stofm_geo.ops import threads

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


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, src: Tensor, ptr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend; half precision is computed in single.

    Args:
        q: Queries of the destinations ``[N, H, C]``.
        k: Keys of the sources ``[M, H, C]``.
        v: Values of the sources ``[M, H, D]``.
        bias: Additive logits ``[E, H]``; ``-inf`` hides an edge.
        src: Sources of the edges ``[E]``, sorted by destination.
        ptr: Where each destination's edges start ``[N + 1]``.

    Returns:
        Attended values ``[N, H, D]``, logits ``[E, H]`` and their log-sum-exp ``[N, H]``.
    """
    n, heads, _ = q.shape
    made = (
        bias.new_empty(src.size(0), heads),
        bias.new_empty(n, heads, v.size(2)),
        bias.new_empty(n, heads),
    )
    given, written = _arrays(bias.dtype, q, k, v, bias, src, ptr), _arrays(bias.dtype, *made)
    threads.run(
        lambda first, last: _loops.forward(first, last, *given, *written),
        given[-1],
        _cost(q, v, src),
    )
    logits, out, lse = made
    return out.to(v.dtype), logits, lse


def backward(
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
    """Gradients of ``q``, ``k``, ``v`` and ``bias``.

    Args:
        d_out: Gradient of the output; ``d_logits``, ``d_lse`` accordingly.
        q: As in :func:`forward`, with what it returned.
        dst: Destinations of the edges ``[E]``, ascending.
        reverse_ptr: Where each source's edges start ``[M + 1]``.
        reverse_edges: Numbers of the edges, by source ``[E]``.
    """
    kind = logits.dtype
    made = tuple(torch.empty(t.shape, dtype=kind) for t in (q, k, v, logits))
    d_q, d_k, d_v, d_bias = _arrays(kind, *made)
    alpha = np.empty_like(d_bias)
    q_, k_, v_, logits_, out_, lse_ = _arrays(kind, q, k, v, logits, out, lse)
    d_out_, d_logits_, d_lse_ = _arrays(kind, d_out, d_logits, d_lse)
    src_, dst_, ptr_, reverse_ptr_, edges_ = _arrays(
        kind, src, dst, ptr, reverse_ptr, reverse_edges
    )
    threads.run(
        lambda first, last: _loops.to_destinations(
            first, last, q_, k_, v_, logits_, out_, lse_, src_, ptr_, d_out_, d_logits_, d_lse_,
            d_q, d_bias, alpha,
        ),
        ptr_,
        _cost(q, v, src),
    )  # fmt: skip
    threads.run(
        lambda first, last: _loops.to_sources(
            first, last, q_, d_out_, d_bias, alpha, dst_, reverse_ptr_, edges_, d_k, d_v
        ),
        reverse_ptr_,
        _cost(q, v, src),
    )
    return made[0].to(q.dtype), made[1].to(k.dtype), made[2].to(v.dtype), made[3]


def _arrays(kind: torch.dtype, *tensors: Tensor) -> list[np.ndarray]:
    """Contiguous arrays, numbers of type ``kind``, indices as they are."""
    return [
        (t.detach().to(kind) if t.is_floating_point() else t).contiguous().numpy() for t in tensors
    ]


def _cost(q: Tensor, v: Tensor, src: Tensor) -> int:
    """Thousands of multiply-adds."""
    return src.size(0) * q.size(1) * (q.size(2) + v.size(2)) // 1000
