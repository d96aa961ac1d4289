"""Dense attention by blocks of rows; the backward recomputes the weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stofm_geo.ops.dense_attention.reference import dense_reference
from stofm_geo.ops.graph import EdgeGraph

_BLOCK = 2**20  # numbers of a block: with its copies, about what a core's caches hold


class _Block(NamedTuple):
    rows: slice  # of the queries
    nodes: slice  # of the keys: the graph these rows belong to
    edges: slice  # of these rows
    place: Tensor  # of the edges in the block, [1, edges], its rows one after another


def blockwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    default_bias: Tensor,
    graph: EdgeGraph,
    bounds: list[int],
    scale: float,
    dropout: float,
    seed: int,
) -> Tensor:
    """Compute :func:`stofm_geo.ops.dense_attention`, heads first."""
    return _Blockwise.apply(q, k, v, bias, default_bias, graph, bounds, scale, dropout, seed)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        default_bias: Tensor,
        graph: EdgeGraph,
        bounds: list[int],
        scale: float,
        dropout: float,
        seed: int,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, bias, default_bias)
        ctx.rest = graph, bounds, scale, dropout, seed
        out, workspace = torch.empty_like(v), _workspace(q, bounds)
        for block in _blocks(graph, bounds, q.size(0)):
            weight = _weights(q, k, bias, default_bias, scale, block, workspace)
            if dropout:
                weight *= _dropout_mask(weight, dropout, seed, block)
            torch.bmm(weight, v[:, block.nodes], out=out[:, block.rows])
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, default_bias = ctx.saved_tensors
        graph, bounds, scale, dropout, seed = ctx.rest
        if torch.is_grad_enabled():  # create_graph: this gradient is differentiated, too
            check_no_dropout(dropout)
            out = dense_reference(q, k, v, bias, default_bias, graph, bounds, scale)
            given = [tensor for tensor in ctx.saved_tensors if tensor.requires_grad]
            found = iter(torch.autograd.grad(out, given, d_out, create_graph=True))
            gradients = [next(found) if t.requires_grad else None for t in ctx.saved_tensors]
            return *gradients, *[None] * 5
        d_q, d_bias = torch.empty_like(q), torch.empty_like(bias)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        workspace, other = _workspace(q, bounds), _workspace(q, bounds)
        for block in _blocks(graph, bounds, q.size(0)):
            rows, nodes = block.rows, block.nodes
            weight = _weights(q, k, bias, default_bias, scale, block, workspace)
            slope = _view(other, weight.shape)
            torch.bmm(d_out[:, rows], v[:, nodes].transpose(1, 2), out=slope)
            used = weight
            if dropout:
                kept = _dropout_mask(weight, dropout, seed, block)
                used, slope = weight * kept, slope.mul_(kept)
            d_v[:, nodes].baddbmm_(used.transpose(1, 2), d_out[:, rows])
            slope = torch.ops.aten._softmax_backward_data(slope, weight, 2, weight.dtype)
            torch.bmm(slope, k[:, nodes], out=d_q[:, rows])
            d_k[:, nodes].baddbmm_(slope.transpose(1, 2), q[:, rows], alpha=scale)
            place = block.place.expand(len(q), -1)
            torch.gather(slope.flatten(1), 1, place, out=d_bias[:, block.edges])
        # A softmax does not feel what all of a row gain: the slopes of a row sum to 0.
        return d_q.mul_(scale), d_k, d_v, d_bias, -d_bias.sum(1), *[None] * 5


def check_no_dropout(dropout: float) -> None:
    """Check that dropout is 0, where attention is computed by plain operations.

    Raises:
        RuntimeError: It is not.
    """
    if dropout:
        raise RuntimeError(
            f"dense_attention drops no weights under torch.func transforms, in forward-mode AD or "
            f"for gradients of gradients; found dropout={dropout}; set it to 0"
        )


def _blocks(graph: EdgeGraph, bounds: list[int], heads: int) -> Iterator[_Block]:
    starts = graph.ptr.tolist()
    for first, last in pairwise(bounds):
        n = last - first
        step = max(_BLOCK // max(heads * n, 1), 1)
        for row in range(first, last, step):
            end = min(row + step, last)
            edges = slice(starts[row], starts[end])
            place = (graph.dst[edges] - row) * n + graph.src[edges] - first
            yield _Block(slice(row, end), slice(first, last), edges, place[None])


def _workspace(q: Tensor, bounds: list[int]) -> Tensor:
    """Allocate memory for the largest block once, since allocation is slow."""
    nodes = max((last - first for first, last in pairwise(bounds)), default=0)
    return q.new_empty(max(_BLOCK, q.size(0) * nodes))


def _view(workspace: Tensor, shape: torch.Size) -> Tensor:
    return workspace[: shape.numel()].view(shape)


def _weights(
    q: Tensor,
    k: Tensor,
    bias: Tensor,
    default_bias: Tensor,
    scale: float,
    block: _Block,
    workspace: Tensor,
) -> Tensor:
    """Compute the softmax over the nodes, ``[H, rows, nodes]``, in ``workspace``."""
    rows, keys = q[:, block.rows], k[:, block.nodes].transpose(1, 2)
    logits = _view(workspace, torch.Size([len(q), rows.size(1), keys.size(2)]))
    logits.copy_(default_bias[:, None, None].expand_as(logits))
    logits.flatten(1).scatter_(1, block.place.expand(len(q), -1), bias[:, block.edges])
    return torch.softmax(logits.baddbmm_(rows, keys, alpha=scale), 2, out=logits)


def _dropout_mask(like: Tensor, dropout: float, seed: int, block: _Block) -> Tensor:
    """Return the scaled dropout mask of a block, the same in forward and backward.

    16 random bits a weight: drawing each from a generator would take longer than the attention.
    """
    draw = torch.Generator(like.device).manual_seed(seed + block.rows.start)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), 2**63 - 1, generator=draw)
    bits = words.view(torch.int16)[: like.numel()].view_as(like)
    kept = bits >= round(dropout * 2**16) - 2**15
    return kept.to(like.dtype).div_(1 - dropout)
