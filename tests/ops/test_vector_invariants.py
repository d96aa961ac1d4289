"""Invariants of vectors: the formulas, gradients, threads, and precision."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from stofm_geo.nn.geometry import circular_harmonics
from stofm_geo.ops import threads
from stofm_geo.ops.rotated_sum import rotate
from stofm_geo.ops.vector_invariants import scale_vectors, vector_invariants

MODULE = sys.modules["stofm_geo.ops.vector_invariants"]


def example(nodes: int = 30, width: int = 5, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Vectors of two orders, those of the first node 0; and linear maps of scaled ones."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(nodes, 2, 2, width, generator=draw, dtype=torch.float64)
    vectors[:1] = 0
    weight = torch.randn(2, width, 2 * width, generator=draw, dtype=torch.float64) / width**0.5
    return vectors.to(dtype), weight.to(dtype)


def invariants(
    vectors: Tensor, weight: Tensor, cross: bool = True, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """As a layer computes them: invariants and scaled vectors."""
    scaled, lengths = scale_vectors(vectors, backend=backend)
    pairs = torch.bmm(scaled.flatten(1, 2), weight).unflatten(1, (-1, 2))
    return vector_invariants(lengths, pairs, cross=cross, backend=backend), scaled


def results(
    vectors: Tensor, weight: Tensor, cross: bool = True, backend: str = "auto"
) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (vectors, weight)]
    out, scaled = invariants(*leaves, cross, backend)
    (out.sin().sum() + scaled.cos().sum()).backward()
    return [out.detach(), scaled.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_lengths_and_products_of_each_node(backend: str) -> None:
    vectors, weight = example()
    out, scaled = invariants(vectors, weight, backend=backend)
    for node in range(30):
        for order in range(2):
            v = vectors[node, order]
            expected = v / (v.square().sum() / 5 + 0.01).sqrt()
            torch.testing.assert_close(scaled[order, node], expected)
            torch.testing.assert_close(out[node, order, 0], v.norm(dim=0))
            a, b = (expected @ weight[order]).chunk(2, dim=1)
            torch.testing.assert_close(out[node, order, 1], (a * b).sum(0))
            torch.testing.assert_close(out[node, order, 2], a[0] * b[1] - a[1] * b[0])


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("nodes", "width"), [(0, 4), (1, 1), (30, 5), (10_000, 32)])
def test_the_kernel_and_plain_pytorch_are_the_same(
    nodes: int, width: int, dtype, cross: bool
) -> None:
    given = example(nodes, width, dtype)
    found = results(*given, cross)
    close = {"atol": 1e-3, "rtol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(found, results(*given, cross, "reference"), **close)
    assert found[0].shape == (nodes, 2, 2 + cross, width)
    assert all(part.dtype == dtype and part.isfinite().all() for part in found)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-3, 1e10, 1e15])
def test_gradients_of_tiny_and_huge_vectors(size: float) -> None:
    """In single precision, squares are 0 below 1e-19 and products of three are infinite."""
    vectors, _ = example(3)
    vectors = size * vectors
    slope = torch.linspace(-1, 1, 2 * 3 * 2 * 5).view(2, 3, 2, 5)

    def gradient(dtype, backend: str) -> Tensor:
        leaf = vectors.to(dtype).requires_grad_()
        scaled, lengths = scale_vectors(leaf, backend=backend)
        ((slope.to(dtype) * scaled).sum() + lengths.sum()).backward()
        return leaf.grad.double()

    found = gradient(torch.float32, "auto")
    assert found.isfinite().all()
    expected = gradient(torch.float64, "reference")
    if size == 1e-20:  # a length of 0 in single precision, whose gradient is 0
        expected = 10 * slope.double().transpose(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_without_numba_it_is_the_same(monkeypatch) -> None:
    given = example()
    found = results(*given)
    monkeypatch.setattr(MODULE, "loops", None)
    torch.testing.assert_close(found, results(*given))


def test_rotations_change_nothing_and_reflections_the_sign_of_cross_products() -> None:
    vectors, weight = example()
    before, _ = invariants(vectors, weight)
    cos, sin = circular_harmonics(torch.tensor([[0.6, 0.8]], dtype=torch.float64), 2)[0].t()
    turned = rotate(cos[:, None, None], sin[:, None, None], vectors[..., None])[..., 0]
    after, _ = invariants(turned, weight)
    torch.testing.assert_close(after, before)
    mirror = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None]
    after, _ = invariants(vectors * mirror, weight)
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(after, before * signs)


@pytest.mark.parametrize("cross", [True, False])
def test_gradcheck_of_first_and_second_order(cross: bool) -> None:
    vectors, weight = example(4, 3)
    leaves = [vectors[1:].clone().requires_grad_(), weight.requires_grad_()]

    def function(*given: Tensor) -> tuple[Tensor, Tensor]:
        return invariants(*given, cross=cross)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("which", [0, 1])
def test_second_order_where_one_input_needs_no_gradient(which: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = ((4, 2, 3), (2, 4, 2, 6))
    given = [torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes]
    leaf = given[which].requires_grad_()

    def second(backend: str) -> Tensor:
        out = vector_invariants(*given, backend=backend)
        (slope,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), leaf)[0]

    torch.testing.assert_close(second("auto"), second("reference"))


def test_they_are_registered_ops() -> None:
    vectors, _ = example(4)
    ops = torch.ops.stofm_geo
    torch.library.opcheck(ops.scale_vectors_cpu, (vectors.requires_grad_(),))
    lengths = torch.rand(4, 2, 3, requires_grad=True)
    pairs = torch.randn(2, 4, 2, 6, requires_grad=True)
    torch.library.opcheck(ops.vector_invariants_cpu, (lengths, pairs, True))


def test_any_number_of_threads_gives_the_same_bytes(thread_count, monkeypatch) -> None:
    given = example(3000, dtype=torch.float32)
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(1)
    expected = results(*given)
    thread_count(3)
    assert all(map(torch.equal, results(*given), expected))


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_half_precision_is_computed_in_single(size: float) -> None:
    vectors, weight = example(dtype=torch.float16)
    vectors = size * vectors  # squares are beyond half precision
    found = results(vectors, weight)
    assert {part.dtype for part in found} == {torch.float16}
    assert all(part.isfinite().all() for part in found)
    expected = results(vectors.float(), weight.float())
    for part, single in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(part, single.half(), atol=2e-2, rtol=1e-2)
