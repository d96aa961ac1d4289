"""Sums of rotated vectors: the formula, gradients, threads, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from stofm_geo.nn.geometry import circular_harmonics
from stofm_geo.ops import EdgeGraph, rotated_sum, threads

MODULE = sys.modules["stofm_geo.ops.rotated_sum"]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, EdgeGraph]


def example(
    edges: int = 200, dtype=torch.float64, channels: int = 4, heads: int = 3, parts: int = 2
) -> Inputs:
    """Of 30 sources and 20 destinations, the last of which have no edge."""
    draw = torch.Generator().manual_seed(0)
    angle = 6.3 * torch.rand(edges, generator=draw, dtype=torch.float64)
    unit = circular_harmonics(torch.stack([angle.cos(), angle.sin()], dim=1), 2).to(dtype)
    weight = torch.randn(edges, heads, generator=draw, dtype=torch.float64).to(dtype)
    radial = torch.randn(edges, 2, heads, generator=draw, dtype=torch.float64).to(dtype)
    shape = (30, 2, parts, channels, heads)
    values = torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)
    src, dst = (torch.randint(n - 1, (edges,), generator=draw) for n in (30, 20))
    return weight, radial, unit, values, EdgeGraph(torch.stack([src, dst]), 20, 30)


def results(
    *inputs: Tensor | EdgeGraph, inverse: bool = False, backend: str = "auto"
) -> list[Tensor]:
    *tensors, graph = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = rotated_sum(*leaves, graph, inverse=inverse, backend=backend)
    (out / 8).sin().sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("inverse", [False, True])
def test_each_destination_has_the_sum_of_its_edges(inverse: bool) -> None:
    weight, radial, unit, values, graph = example()
    expected = torch.zeros(20, 2, 2, 4, 3, dtype=torch.float64)
    for e, (src, dst) in enumerate(graph.edge_index.t().tolist()):
        for order in range(2):
            cos, sin = unit[e, order].tolist()
            turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
            turn = turn.t() if inverse else turn
            for head in range(3):
                rotated = turn @ values[src, order, :, :, head]
                product = weight[e, head] * radial[e, order, head]
                expected[dst, order, :, :, head] += product * rotated
    found = rotated_sum(weight, radial, unit, values, graph, inverse=inverse)
    torch.testing.assert_close(found, expected)
    assert not expected[-1].any()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("inverse", [False, True])
def test_vectors_along_the_edges_have_no_second_component(inverse: bool, backend: str) -> None:
    weight, radial, unit, along, graph = example(parts=1)
    both = torch.cat([along, torch.zeros_like(along)], dim=2)
    expected = results(weight, radial, unit, both, graph, inverse=inverse, backend=backend)
    expected[4] = expected[4][:, :, :1]
    found = results(weight, radial, unit, along, graph, inverse=inverse, backend=backend)
    torch.testing.assert_close(found, expected)


# Numbers of channels and heads around eight, in which the kernel takes them; more edges than the 32
# of a destination that it takes at once.
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("edges", "channels", "heads"),
    [
        *((1, 1, 1), (201, 3, 3), (201, 8, 1), (201, 4, 2), (201, 5, 4), (201, 4, 6), (201, 2, 8)),
        *((201, 3, 12), (12_000, 4, 8)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_and_plain_pytorch_are_the_same(
    edges: int, channels: int, heads: int, parts: int, dtype
) -> None:
    given = example(edges, dtype, channels, heads, parts)
    inverse = parts == 2
    found = results(*given, inverse=inverse)
    close = {"atol": 1e-3, "rtol": 1e-4} if dtype == torch.float32 else {}
    expected = results(*given, inverse=inverse, backend="reference")
    torch.testing.assert_close(found, expected, **close)
    assert all(part.dtype == dtype for part in found)


def test_without_numba_it_is_the_same(monkeypatch) -> None:
    given = example()
    found = results(*given)
    monkeypatch.setattr(MODULE, "loops", None)
    torch.testing.assert_close(found, results(*given))


def test_vectors_that_rotate_with_the_edges_give_the_same() -> None:
    weight, radial, unit, values, graph = example()
    before = rotated_sum(weight, radial, unit, values, graph, inverse=True)
    cos, sin = circular_harmonics(torch.tensor([[0.6, 0.8]], dtype=torch.float64), 2)[0].t()
    rotated = MODULE.rotate(cos[:, None, None], sin[:, None, None], values)
    rotated_unit = MODULE.rotate(cos[:, None, None], sin[:, None, None], unit[..., None, None])
    after = rotated_sum(weight, radial, rotated_unit[..., 0, 0], rotated, graph, inverse=True)
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
def test_gradcheck_of_first_and_second_order(inverse: bool, parts: int) -> None:
    *tensors, graph = example(edges=10, channels=2, parts=parts)
    leaves = [tensor.requires_grad_() for tensor in tensors]

    def function(*given: Tensor) -> Tensor:
        return rotated_sum(*given, graph, inverse=inverse)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_it_is_a_registered_op() -> None:
    weight, radial, unit, values, graph = example(edges=12)
    of_edges = map(graph.sort, (weight, radial, unit))
    inputs = [t.requires_grad_() for t in (*of_edges, values)]
    args = (*inputs, graph.src, graph.dst, graph.ptr, *graph.reverse, -1)
    torch.library.opcheck(torch.ops.stofm_geo.rotated_sum_cpu, args)


def test_any_number_of_threads_gives_the_same_bytes(thread_count, monkeypatch) -> None:
    given = example(edges=3000, dtype=torch.float32)
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(1)
    expected = results(*given)
    thread_count(3)
    assert all(map(torch.equal, results(*given), expected))


def test_half_precision_is_computed_in_single() -> None:
    weight, radial, unit, values, graph = example(dtype=torch.bfloat16)
    out, *gradients = results(weight, radial, unit, values, graph)
    assert {part.dtype for part in (out, *gradients)} == {torch.bfloat16}
    single = rotated_sum(*(part.float() for part in (weight, radial, unit, values)), graph)
    torch.testing.assert_close(out, single.to(torch.bfloat16))


def test_what_does_not_fit_is_refused() -> None:
    weight, radial, unit, values, graph = example()
    with pytest.raises(
        ValueError, match=r"values must be \[30, M, 1 or 2, V, H\]; found \[29, 2, 2, 4, 3"
    ):
        rotated_sum(weight, radial, unit, values[1:], graph)
    with pytest.raises(ValueError, match=r"weight must be \[E, H\] = \[200, 3\]; found \[200, 2\]"):
        rotated_sum(weight[:, :2], radial, unit, values, graph)
    with pytest.raises(
        ValueError, match=r"radial must be \[E, M, H\] = \[200, 2, 3\]; found \[200, 2, 2\]"
    ):
        rotated_sum(weight, radial[..., :2], unit, values, graph)
    with pytest.raises(
        ValueError, match=r"unit must be \[E, M, 2\] = \[200, 2, 2\]; found \[200, 1, 2\]"
    ):
        rotated_sum(weight, radial, unit[:, :1], values, graph)
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        rotated_sum(weight, radial, unit, values, graph, backend="fast")
