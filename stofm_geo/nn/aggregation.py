"""Aggregation over edges by the kernels, without a tensor of messages."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stofm_geo.nn._validation import check_attended
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
    """Weights of the directions ``[E, M, H]``."""
    harmonics: Tensor | None
    """Circular harmonics of the directions, ``[E, M, 2]``."""
    directions: Tensor | None
    """Vectors of the sources along the edges, ``[num_src, M, 1, V, H]``."""
    frame_vectors: Tensor | None
    """Vectors of the sources to rotate into the frames of the edges, ``[num_src, M, 2, V, H]``."""
    edge_attr: Tensor | None
    """Edge features ``[E, edge_dim]``."""


class Attended(NamedTuple):
    """Sums of the inputs over the edges, weighted by attention."""

    value: Tensor
    """Of the values ``[N, H, D]``."""
    directions: Tensor | None
    """Of the vectors along the edges, ``[N, M, 2, V, H]``."""
    frame_vectors: Tensor | None
    """Of the vectors in the frames of the edges, ``[N, M, 2, V, H]``."""
    edge_attr: Tensor | None
    """Of the edge features ``[N, H, edge_dim]``."""


def aggregate(
    inputs: AttentionInputs, dropout: float, backend: str
) -> tuple[Attended, Tensor, Tensor]:
    """Aggregate by attention without a tensor of messages.

    Args:
        inputs: Inputs of the aggregation.
        dropout: Dropout probability of the attention weights.
        backend: Backend of :func:`stofm_geo.ops.edge_attention`.

    Returns:
        The sums, the logits ``[E, H]`` and their log-sum-exp ``[N, H]``.
    """
    query, key, value, bias, graph, radial, harmonics, directions, frame_vectors, edge_attr = inputs
    attended = value[..., :0] if dropout else value
    out, logits, lse = edge_attention(query, key, attended, bias, graph, backend=backend)
    if not dropout and directions is None and edge_attr is None:
        return Attended(out, None, None, None), logits, lse
    weight = attention_weights(logits, lse, graph, value.dtype)
    if dropout:
        weight = F.dropout(weight, dropout)
    sums = "reference" if backend == "reference" else "auto"
    if dropout:
        out = edge_sum(weight, value, graph, backend=sums)
    if directions is not None and radial is not None and harmonics is not None:
        of_edges = (weight, radial, harmonics)
        directions = rotated_sum(*of_edges, directions, graph, backend=sums).to(value.dtype)
        if frame_vectors is not None:
            frame_vectors = rotated_sum(
                *of_edges, frame_vectors, graph, inverse=True, backend=sums
            ).to(value.dtype)
    if edge_attr is not None:
        features = weight[..., None] * edge_attr[:, None]
        edge_attr = scatter_sum(features, graph.edge_index[1], query.size(0))
    return Attended(out, directions, frame_vectors, edge_attr), logits, lse


def attention_weights(logits: Tensor, lse: Tensor, graph: EdgeGraph, dtype: torch.dtype) -> Tensor:
    """Return the softmax of the logits over the edges of a destination, ``[E, H]``."""
    return (logits - lse.index_select(0, graph.edge_index[1])).exp().to(dtype)


def split_messages(out: Tensor, inputs: AttentionInputs) -> Attended:
    """Return the parts of aggregated messages ``[N, H, ...]``.

    Raises:
        ValueError: Their shape is not that of :meth:`SE2TransformerConv.message`.
    """
    _, _, value, *_, directions, frame_vectors, edge_attr = inputs
    vectors = (directions, frame_vectors)
    sizes = [0 if part is None else 2 * part[0, :, 0, :, 0].numel() for part in vectors]
    sizes = [value.size(2), *sizes, 0 if edge_attr is None else edge_attr.size(1)]
    check_attended(out, value.size(1), sizes)
    values, *sums, features = out.split(sizes, dim=2)
    # By order, component and channel, with the heads last.
    rotated, in_frame = (
        None if part is None else found.unflatten(2, (part.size(1), 2, -1)).movedim(1, 4)
        for part, found in zip(vectors, sums, strict=True)
    )
    return Attended(values, rotated, in_frame, None if edge_attr is None else features)
