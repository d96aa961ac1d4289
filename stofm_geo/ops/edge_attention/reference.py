"""Reference implementation of edge attention in plain PyTorch, for any device and float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops.edge_sum import compute_dtype, scatter_edge_sum
from stofm_geo.ops.graph import EdgeGraph


def unavailable(q: Tensor | None = None) -> str | None:
    """Return ``None``: the reference runs wherever PyTorch runs."""
    return None


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: EdgeGraph
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`stofm_geo.ops.edge_attention`; half precision in single precision."""
    src, dst = graph.edge_index[0], graph.edge_index[1]
    n, _, channels = q.shape
    kind = compute_dtype(torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype))
    # index_select, not q[dst]: its backward is several times faster on a CPU.
    product = (q.to(kind).index_select(0, dst) * k.to(kind).index_select(0, src)).sum(-1)
    logits = product * channels**-0.5 + bias.to(kind)
    alpha, lse = softmax(logits, dst, n)
    return scatter_edge_sum(alpha, v, graph), logits, lse


def softmax(logits: Tensor, dst: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Compute attention weights from logits.

    Args:
        logits: ``[E, H]``; ``-inf`` masks an edge.
        dst: Destinations of the edges ``[E]``, in any order.
        n: Number of destinations ``N``.

    Returns:
        Weights ``[E, H]``, which sum to 1 over the edges of a destination (to 0 where all are
        masked), and the log-sum-exp of the logits ``[N, H]``.
    """
    per_head = dst[:, None].expand_as(logits)
    top = logits.new_full((n, logits.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, per_head, logits.detach(), "amax")
    # Where every edge is hidden (a bias of -inf) nothing is attended to.
    top = top.masked_fill(top == -torch.inf, 0)
    weight = (logits - top.index_select(0, dst)).exp()
    total = torch.zeros_like(top).scatter_add(0, per_head, weight)
    nothing = total == 0
    lse = (top + total.masked_fill(nothing, 1).log()).masked_fill(nothing, 0)
    return weight / total.masked_fill(nothing, 1).index_select(0, dst), lse
