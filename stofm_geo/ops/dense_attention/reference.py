"""Reference implementation of dense attention in plain PyTorch, with matrices of nodes x nodes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stofm_geo.ops.graph import EdgeGraph


def dense_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    default_bias: Tensor,
    graph: EdgeGraph,
    bounds: list[int],
    scale: float,
) -> Tensor:
    """Compute :func:`stofm_geo.ops.dense_attention`, heads first, with sorted edges."""
    starts = graph.ptr.tolist()
    parts = []
    for first, last in pairwise(bounds):
        nodes, edges = slice(first, last), slice(starts[first], starts[last])
        n = last - first
        place = (graph.dst[edges] - first) * n + graph.src[edges] - first
        of_pairs = default_bias[:, None].expand(-1, n * n)
        of_pairs = of_pairs.scatter(1, place.expand(len(bias), -1), bias[:, edges])
        logits = scale * q[:, nodes] @ k[:, nodes].transpose(1, 2) + of_pairs.unflatten(1, (n, n))
        parts.append(logits.softmax(dim=2) @ v[:, nodes])
    return torch.cat(parts, dim=1) if parts else torch.zeros_like(v)
