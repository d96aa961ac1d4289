from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stofm_geo.ops import EdgeGraph, dense_attention
from stofm_geo.ops.dense_attention import blocks


def example(
    sizes: tuple[int, ...] = (7, 1, 12), heads: int = 3, channels: int = 5, values: int = 4
) -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k, v, bias, default_bias in double; edges in any order; ptr."""
    draw = torch.Generator().manual_seed(0)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    n = int(ptr[-1])
    graph = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    joined = (torch.rand(n, n, generator=draw) < 0.4) & (graph[:, None] == graph)
    edge_index = joined.nonzero().t()
    edge_index = edge_index[:, torch.randperm(edge_index.size(1), generator=draw)]
    shapes = [(n, heads, channels)] * 2 + [
        (n, heads, values),
        (edge_index.size(1), heads),
        (heads,),
    ]
    tensors = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    return tensors, edge_index, ptr


def formula(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, default_bias: Tensor, edges: Tensor, ptr: Tensor
) -> Tensor:
    n, _, channels = q.shape
    logits = default_bias.expand(n, n, -1).index_put((edges[1], edges[0]), bias)
    logits = logits + torch.einsum("ihc,jhc->ijh", q, k) / channels**0.5
    graph = torch.bucketize(torch.arange(n), ptr[1:], right=True)
    logits = logits.masked_fill((graph[:, None] != graph)[..., None], -torch.inf)
    return torch.einsum("ijh,jhd->ihd", logits.softmax(1), v)


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_the_formula_and_its_gradients(monkeypatch, block: int) -> None:
    monkeypatch.setattr(blocks, "_BLOCK", block)
    tensors, edges, ptr = example()
    given = [t.clone().requires_grad_() for t in tensors]
    expected = [t.clone().requires_grad_() for t in tensors]
    out, wanted = dense_attention(*given, edges, ptr), formula(*expected, edges, ptr)
    torch.testing.assert_close(out, wanted)
    slope = torch.randn_like(out)
    out.backward(slope)
    wanted.backward(slope)
    for own, other in zip(given, expected, strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_gradcheck_with_dropout(monkeypatch) -> None:
    """The same is dropped in the backward as in the forward."""
    monkeypatch.setattr(blocks, "_BLOCK", 60)
    tensors, edges, ptr = example((4, 3), 2, 3, 2)

    def attend(*given: Tensor) -> Tensor:
        torch.manual_seed(1)
        return dense_attention(*given, edges, ptr, dropout=0.3)

    assert torch.autograd.gradcheck(attend, [t.requires_grad_() for t in tensors])


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    q, k = torch.zeros(2, 1, 50, 1).unbind(0)
    q, k = (t.view(50, 1, 1) for t in (q, k))
    v = torch.eye(50)[:, None]
    none = torch.empty(2, 0, dtype=torch.long)
    torch.manual_seed(0)
    out = dense_attention(q, k, v, torch.empty(0, 1), torch.zeros(1), none, dropout=0.2)
    assert abs(float((out == 0).float().mean()) - 0.2) < 0.03
    torch.testing.assert_close(out[out > 0], torch.full_like(out[out > 0], 1 / 50 / 0.8))
    again = dense_attention(q, k, v, torch.empty(0, 1), torch.zeros(1), none, dropout=0.2)
    assert not torch.equal(out, again)


def test_graphs_of_a_batch_do_not_see_each_other() -> None:
    tensors, edges, ptr = example()
    whole = dense_attention(*tensors, edges, ptr)
    for first, last in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        own = (edges[0] >= first) & (edges[0] < last)
        q, k, v, bias, default_bias = tensors
        part = dense_attention(
            *(t[first:last] for t in (q, k, v)), bias[own], default_bias, edges[:, own] - first
        )
        torch.testing.assert_close(part, whole[first:last])


def test_no_nodes_and_no_edges() -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    empty = torch.empty(0, 2, 3)
    out = dense_attention(empty, empty, empty, torch.empty(0, 2), torch.zeros(2), none)
    assert out.shape == (0, 2, 3)


def test_what_does_not_fit_is_named() -> None:
    (q, k, v, bias, default_bias), edges, ptr = example()
    with pytest.raises(ValueError, match=r"q, k must be \[N, H, C\]"):
        dense_attention(q, k[1:], v, bias, default_bias, edges, ptr)
    with pytest.raises(ValueError, match=r"bias must be \["):
        dense_attention(q, k, v, bias[1:], default_bias, edges, ptr)
    with pytest.raises(ValueError, match="ptr must go from 0 to 20"):
        dense_attention(q, k, v, bias, default_bias, edges, ptr[:-1])
    with pytest.raises(ValueError, match="dropout must be at least 0"):
        dense_attention(q, k, v, bias, default_bias, EdgeGraph(edges, 20), ptr, dropout=1.0)


def test_gradients_of_gradients_and_transforms() -> None:
    tensors, graph, ptr = example((4, 1, 3), 2, 3, 2)
    tensors = tuple(tensors)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def function(*given: Tensor) -> Tensor:
        return dense_attention(*given, graph, ptr)

    assert torch.autograd.gradgradcheck(function, leaves)
    expected = torch.autograd.grad(function(*leaves).sin().sum(), leaves)
    found = torch.func.grad(lambda *given: function(*given).sin().sum(), (0, 1, 2, 3, 4))(*tensors)
    torch.testing.assert_close(found, expected)
    ones = tuple(torch.ones_like(tensor) for tensor in tensors)
    _, tangent = torch.func.jvp(lambda *given: function(*given).sin().sum(), tensors, ones)
    torch.testing.assert_close(tangent, sum(part.sum() for part in expected))
    out = dense_attention(*leaves, graph, ptr, dropout=0.5)
    with pytest.raises(RuntimeError, match=r"found dropout=0.5; set it to 0"):
        torch.autograd.grad(out.sum(), leaves, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    tensors, graph, ptr = example()
    halves = [10 * tensor.to(dtype) for tensor in tensors[:3]]
    expected = dense_attention(*(t.float() for t in (*halves, *tensors[3:])), graph, ptr)
    out = dense_attention(*halves, *tensors[3:], graph, ptr)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=1e-2)
