"""Invariants of vectors: the formulas, gradients, threads, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from stofm_geo.nn.geometry import circular_harmonics
from stofm_geo.ops import threads
from stofm_geo.ops.rotated_sum import rotate
from stofm_geo.ops.vector_invariants import vector_invariants

MODULE = sys.modules["stofm_geo.ops.vector_invariants"]


def example(nodes: int = 30, width: int = 5, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Of two orders; the vectors of the first node are 0."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(nodes, 2, 2, width, generator=draw, dtype=torch.float64)
    vectors[0] = 0
    weight = torch.randn(2, width, 2 * width, generator=draw, dtype=torch.float64)
    pairs = torch.einsum("nmcw,mwk->mnck", vectors, weight).contiguous()
    return vectors.to(dtype), pairs.to(dtype)


def results(
    vectors: Tensor, pairs: Tensor, cross: bool = True, backend: str = "auto"
) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (vectors, pairs)]
    out, scale = vector_invariants(*leaves, cross=cross, backend=backend)
    ((out / 8).sin().sum() + scale.square().sum()).backward()
    return [out.detach(), scale.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_lengths_and_products_of_each_node(backend: str) -> None:
    vectors, pairs = example()
    out, scale = vector_invariants(vectors, pairs, backend=backend)
    for node in range(30):
        for order in range(2):
            v, p = vectors[node, order], pairs[order, node]
            s = (v.square().sum() / 5 + 0.01) ** -0.5
            torch.testing.assert_close(scale[node, order], s)
            torch.testing.assert_close(out[node, order, 0], v.norm(dim=0))
            a, b = s * p[:, :5], s * p[:, 5:]
            torch.testing.assert_close(out[node, order, 1], (a * b).sum(0))
            torch.testing.assert_close(out[node, order, 2], a[0] * b[1] - a[1] * b[0])


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("nodes", "width"), [(0, 4), (1, 1), (30, 5), (10_000, 32)])
def test_the_kernel_and_plain_pytorch_are_the_same(
    nodes: int, width: int, dtype, cross: bool
) -> None:
    vectors, pairs = example(max(nodes, 1), width, dtype)
    given = vectors[:nodes], pairs[:, :nodes]
    found = results(*given, cross=cross)
    close = {"atol": 1e-3, "rtol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(found, results(*given, cross=cross, backend="reference"), **close)
    assert found[0].shape == (nodes, 2, 2 + cross, width)
    assert all(part.dtype == dtype and part.isfinite().all() for part in found)


def test_vectors_of_length_0_have_the_gradient_0_of_their_length() -> None:
    vectors = torch.zeros(1, 1, 2, 3, requires_grad=True)
    out, _ = vector_invariants(vectors, torch.zeros(1, 1, 2, 6))
    out[:, :, 0].sum().backward()
    assert not vectors.grad.any()


def test_without_numba_it_is_the_same(monkeypatch) -> None:
    given = example()
    found = results(*given)
    monkeypatch.setattr(MODULE, "loops", None)
    torch.testing.assert_close(found, results(*given))


def test_rotations_change_nothing_and_reflections_the_sign_of_cross_products() -> None:
    vectors, pairs = example()
    before, scale = vector_invariants(vectors, pairs)
    cos, sin = circular_harmonics(torch.tensor([[0.6, 0.8]], dtype=torch.float64), 2)[0].t()
    cos, sin = cos[:, None, None], sin[:, None, None]
    turned = rotate(cos, sin, vectors[..., None])[..., 0]
    turned_pairs = rotate(cos[..., None], sin[..., None], pairs[..., None])[..., 0]
    after = vector_invariants(turned, turned_pairs)
    torch.testing.assert_close(after, (before, scale))
    mirror = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None]
    after, _ = vector_invariants(vectors * mirror, pairs * mirror)
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(after, before * signs)


@pytest.mark.parametrize("cross", [True, False])
def test_gradcheck_of_first_and_second_order(cross: bool) -> None:
    vectors, pairs = example(4, 3)
    leaves = [vectors[1:].clone().requires_grad_(), pairs[:, 1:].clone().requires_grad_()]

    def function(*given: Tensor) -> tuple[Tensor, Tensor]:
        return vector_invariants(*given, cross=cross)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("which", [0, 1])
def test_second_order_where_one_input_needs_no_gradient(which: int) -> None:
    given = list(example(4, 3))
    leaf = given[which].requires_grad_()
    out, _ = vector_invariants(*given)
    (slope,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    slope.square().sum().backward()
    expected = leaf.grad.clone()
    leaf.grad = None
    out, _ = vector_invariants(*given, backend="reference")
    (slope,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    slope.square().sum().backward()
    torch.testing.assert_close(expected, leaf.grad)


def test_second_order_where_pairs_are_computed_from_the_vectors() -> None:
    vectors, _ = example(4, 3)
    leaf = vectors[1:].clone().requires_grad_()
    weight = torch.randn(3, 6, dtype=torch.float64)

    def function(given: Tensor) -> Tensor:
        return vector_invariants(given, (given.transpose(0, 1) @ weight).contiguous())[0]

    assert torch.autograd.gradgradcheck(function, leaf)


def test_it_is_a_registered_op() -> None:
    vectors, pairs = example(4)
    args = (vectors.requires_grad_(), pairs.requires_grad_(), True)
    torch.library.opcheck(torch.ops.stofm_geo.vector_invariants_cpu, args)


def test_any_number_of_threads_gives_the_same_bytes(thread_count, monkeypatch) -> None:
    given = example(3000, dtype=torch.float32)
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(1)
    expected = results(*given)
    thread_count(3)
    assert all(map(torch.equal, results(*given), expected))


def test_half_precision_is_computed_in_single() -> None:
    vectors, pairs = example(dtype=torch.float16)
    found = results(100 * vectors, 10 * pairs)  # their squares are beyond half precision
    assert {part.dtype for part in found} == {torch.float16}
    assert all(part.isfinite().all() for part in found)
    expected, _ = vector_invariants(100 * vectors.float(), 10 * pairs.float())
    torch.testing.assert_close(found[0], expected.half(), atol=1e-2, rtol=1e-2)


def test_what_does_not_fit_is_refused() -> None:
    vectors, pairs = example()
    with pytest.raises(ValueError, match=r"vectors must be \[N, M, 2, W\]; found \[30, 2, 2\]"):
        vector_invariants(vectors[..., 0], pairs)
    with pytest.raises(
        ValueError,
        match=r"pairs must be \[M, N, 2, 2 W\] = \[2, 30, 2, 10\]; found \[2, 30, 2, 9\]",
    ):
        vector_invariants(vectors, pairs[..., 1:])
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        vector_invariants(vectors, pairs, backend="fast")
