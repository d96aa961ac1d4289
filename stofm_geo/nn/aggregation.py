"""Aggregation over edges by the kernels, without a tensor of messages."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stofm_geo.ops import EdgeGraph, edge_attention, edge_sum, rotated_sum
from stofm_geo.ops.edge_sum import scatter_sum


class AttentionInputs(NamedTuple):
    """Inputs of the aggregation of an attention layer."""

    query: Tensor
    """Queries of the destinations ``[N, H, C]``."""
    key: Tensor
    """Keys of the sources ``[num_src, H, C]``."""
    value: Tensor
    """Values of the sources ``[num_src, H, D]``, followed by their input vectors, if any."""
    bias: Tensor
    """Bias of the logits ``[E, H]``."""
    graph: EdgeGraph
    """Edges."""
    radial: Tensor | None
    """Weights of the directions ``[E, H, M]``."""
    harmonics: Tensor | None
    """Circular harmonics of the directions, ``[E, M, 2]``."""
    frame_vectors: Tensor | None
    """Vectors of the sources to rotate into the frames of the edges, ``[num_src, H, M, 2, W]``."""
    edge_attr: Tensor | None
    """Edge features ``[E, edge_dim]``."""


def aggregate(
    inputs: AttentionInputs, dropout: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Aggregate by attention without a tensor of messages.

    Args:
        inputs: Inputs of the aggregation.
        dropout: Dropout probability of the attention weights.
        backend: Backend of :func:`stofm_geo.ops.edge_attention`.

    Returns:
        Aggregated values ``[N, H, values | frame_vectors | edge features]``, the logits ``[E, H]``
        and their log-sum-exp ``[N, H]``.
    """
    query, key, value, bias, graph, radial, harmonics, frame_vectors, edge_attr = inputs
    attended = value[..., :0] if dropout else value
    out, logits, lse = edge_attention(query, key, attended, bias, graph, backend=backend)
    if not dropout and frame_vectors is None and edge_attr is None:
        return out, logits, lse
    weight = attention_weights(logits, lse, graph, value.dtype)
    if dropout:
        weight = F.dropout(weight, dropout)
    sums = "reference" if backend == "reference" else "auto"
    parts = [edge_sum(weight, value, graph, backend=sums) if dropout else out]
    if frame_vectors is not None and radial is not None and harmonics is not None:
        of_order = weight[..., None] * radial
        frames = rotated_sum(of_order, harmonics, frame_vectors, graph, backend=sums)
        parts.append(frames.flatten(2).to(value.dtype))
    if edge_attr is not None:
        features = weight[..., None] * edge_attr[:, None]
        parts.append(scatter_sum(features, graph.edge_index[1], query.size(0)))
    return torch.cat(parts, dim=2), logits, lse


def attention_weights(logits: Tensor, lse: Tensor, graph: EdgeGraph, dtype: torch.dtype) -> Tensor:
    """Return the softmax of the logits over the edges of a destination, ``[E, H]``."""
    return (logits - lse.index_select(0, graph.edge_index[1])).exp().to(dtype)
