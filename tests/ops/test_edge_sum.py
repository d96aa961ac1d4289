"""Weighted sums over edges: the specification, gradients, threads, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from stofm_geo.ops import EdgeGraph, edge_sum, threads
from stofm_geo.ops.edge_sum import scatter_edge_sum

MODULE = sys.modules["stofm_geo.ops.edge_sum"]


def example(edges: int = 200, dtype=torch.float64) -> tuple[Tensor, Tensor, EdgeGraph]:
    """Of 30 sources and 20 destinations, the last of which have no edge."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(edges, 3, generator=draw, dtype=dtype)
    values = torch.randn(30, 3, 5, generator=draw, dtype=dtype)
    src, dst = (torch.randint(n - 1, (edges,), generator=draw) for n in (30, 20))
    return weight, values, EdgeGraph(torch.stack([src, dst]), 20, 30)


def results(function, weight: Tensor, values: Tensor, graph: EdgeGraph) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (weight, values)]
    out = function(*leaves, graph)
    out.sin().sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def test_each_destination_has_the_sum_of_its_edges() -> None:
    weight, values, graph = example()
    expected = torch.zeros(20, 3, 5, dtype=torch.float64)
    for w, (src, dst) in zip(weight, graph.edge_index.t(), strict=True):
        expected[dst] += w[:, None] * values[src]
    torch.testing.assert_close(edge_sum(weight, values, graph), expected)
    assert not expected[-1].any()
    scatter = scatter_edge_sum(weight, values, graph)
    torch.testing.assert_close(scatter, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_and_plain_pytorch_are_the_same(monkeypatch, dtype: torch.dtype) -> None:
    given = example(dtype=dtype)
    found = results(edge_sum, *given)
    monkeypatch.setattr(MODULE, "loops", None)
    torch.testing.assert_close(found, results(edge_sum, *given))
    assert all(part.dtype == dtype for part in found)


def test_gradcheck() -> None:
    weight, values, graph = example(edges=12)
    leaves = (weight.requires_grad_(), values[:, :, :2].clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda *given: edge_sum(*given, graph), leaves)


def test_it_is_a_registered_op() -> None:
    weight, values, graph = example(edges=12)
    where = (graph.src, graph.dst, graph.ptr, *graph.reverse)
    args = (graph.sort(weight).requires_grad_(), values.requires_grad_(), *where)
    torch.library.opcheck(torch.ops.stofm_geo.edge_sum_cpu, args)


def test_any_number_of_threads_gives_the_same_bytes(thread_count, monkeypatch) -> None:
    given = example(edges=3000, dtype=torch.float32)
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(1)
    expected = results(edge_sum, *given)
    thread_count(3)
    assert all(map(torch.equal, results(edge_sum, *given), expected))


def test_half_precision_is_computed_in_single() -> None:
    weight, values, graph = example(dtype=torch.bfloat16)
    out, *gradients = results(edge_sum, weight, values, graph)
    assert {part.dtype for part in (out, *gradients)} == {torch.bfloat16}
    single = edge_sum(weight.float(), values.float(), graph)
    torch.testing.assert_close(out, single.to(torch.bfloat16))


def test_edges_as_a_tensor_are_of_as_many_destinations() -> None:
    weight, values, graph = example()
    assert edge_sum(weight, values, graph.edge_index).shape == (30, 3, 5)


def test_what_does_not_fit_is_refused() -> None:
    weight, values, graph = example()
    with pytest.raises(ValueError, match=r"values must be \[30, H, C\]; found \[29, 3, 5\]"):
        edge_sum(weight, values[1:], graph)
    with pytest.raises(ValueError, match=r"weight must be \[E, H\] = \[200, 3\]; found \[200, 2\]"):
        edge_sum(weight[:, :2], values, graph)
