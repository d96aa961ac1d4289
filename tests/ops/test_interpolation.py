from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stofm_geo.ops import interpolate, interpolation, threads


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    knots = torch.tensor([0.1, 0.5, 0.6, 2.0, 7.0], dtype=dtype)
    return 8 * torch.rand(200, dtype=dtype), knots, torch.randn(5, 2, 3, dtype=dtype)


def test_cubics_are_met_exactly() -> None:
    at, knots, _ = example()
    at = at.clamp(0.1, 7)
    powers = torch.arange(4)
    weights = torch.randn(4, 3, dtype=torch.float64)
    value = knots[:, None] ** powers @ weights
    slope = (powers[1:] * knots[:, None] ** (powers[1:] - 1)) @ weights[1:]
    out = interpolate(at, knots, torch.stack([value, slope], dim=1))
    torch.testing.assert_close(out, at[:, None] ** powers @ weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_and_plain_are_the_same(dtype: torch.dtype) -> None:
    at, knots, table = example(dtype)
    results = []
    for function in (interpolate, interpolation._reference):
        leaf = table.clone().requires_grad_()
        out = function(at, knots, leaf)
        out.sin().sum().backward()
        results.append((out.detach(), leaf.grad))
    torch.testing.assert_close(*results)


def test_beyond_the_knots_it_stays_as_at_the_last() -> None:
    _, knots, table = example()
    at = torch.tensor([-3.0, 0.1, 7.0, 100.0], dtype=torch.float64)
    out = interpolate(at, knots, table)
    torch.testing.assert_close(out, table[[0, 0, 4, 4], 0])


def test_gradients_and_registration() -> None:
    at, knots, table = example()
    leaf = table.requires_grad_()
    assert torch.autograd.gradcheck(lambda table: interpolate(at[:20], knots, table), leaf)
    torch.library.opcheck(torch.ops.stofm_geo.interpolate_cpu, (at, knots, leaf))


def test_threads_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SMALL", 0)
    at, knots, table = example(torch.float32)
    before, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        leaf = table.clone().requires_grad_()
        interpolate(at, knots, leaf).square().sum().backward()
        results.append(leaf.grad)
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_no_places() -> None:
    _, knots, table = example()
    assert interpolate(knots[:0], knots, table).shape == (0, 3)
