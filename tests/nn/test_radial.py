from __future__ import annotations

import math

import pytest
import torch

from stofm_geo.nn import GaussianRadialBias


@pytest.fixture
def radial() -> GaussianRadialBias:
    torch.manual_seed(0)
    radial = GaussianRadialBias(heads=3, num_gaussians=8, max_distance=10).double()
    with torch.no_grad():  # so that every term of the formula matters
        radial.scale.fill_(0.7)
        radial.shift.fill_(0.3)
        radial.std[::2] *= -1
    return radial


def slow(radial: GaussianRadialBias, d: float) -> torch.Tensor:
    if d == 0:
        return torch.zeros(radial.heads, dtype=torch.float64)
    gaussians = []
    for mean, std in zip(radial.mean.tolist(), radial.std.tolist(), strict=True):
        s = abs(std) + 1e-5
        y = radial.scale.item() * d + radial.shift.item()
        gaussians.append(math.exp(-(((y - mean) / s) ** 2) / 2) / (math.sqrt(2 * math.pi) * s))
    hidden = radial.hidden.weight @ torch.tensor(gaussians).double() + radial.hidden.bias
    return radial.out.weight @ hidden.clamp_min(0) + radial.out.bias


def test_the_bias_is_that_of_the_formula(radial: GaussianRadialBias) -> None:
    distance = torch.tensor([0.0, 1e-9, 0.1, 1.0, 3.3, 10.0, 100.0], dtype=torch.float64)
    expected = torch.stack([slow(radial, d) for d in distance.tolist()])
    torch.testing.assert_close(radial(distance), expected, atol=1e-7, rtol=1e-6)


def test_no_distance_no_bias(radial: GaussianRadialBias) -> None:
    bias = radial(torch.tensor([0.0, -0.0, 2.0], dtype=torch.float64))
    assert (bias[:2] == 0).all() and (bias[2] != 0).all()


def test_no_edges(radial: GaussianRadialBias) -> None:
    assert radial(torch.empty(0, dtype=torch.float64)).shape == (0, 3)


def test_gradients(radial: GaussianRadialBias) -> None:
    distance = torch.tensor([0.0, 0.4, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(radial, distance[1:].detach().requires_grad_())
    radial(distance).sum().backward()
    assert distance.grad[0] == 0
    for name, parameter in radial.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gaussians_start_denser_at_short_range_and_cover_the_range() -> None:
    radial = GaussianRadialBias(2, num_gaussians=32, max_distance=30)
    steps = radial.mean.diff()
    assert radial.mean[0] == 0 and (steps[1:] > steps[:-1]).all()
    assert radial.mean[-1] + 2 * radial.std[-1] > 30
    y = torch.linspace(0, 30, 400)[:, None]
    reach = (-0.5 * ((y - radial.mean) / radial.std).square()).exp().amax(dim=1)
    assert reach.min() > 0.5


def test_reset_and_repr(radial: GaussianRadialBias) -> None:
    radial.reset_parameters()
    assert radial.scale == 1 and radial.shift == 0 and (radial.std > 0).all()
    assert repr(radial) == "GaussianRadialBias(heads=3, num_gaussians=8)"


@pytest.mark.parametrize("num_gaussians", [1, 2, 128])
def test_any_number_of_gaussians(num_gaussians: int) -> None:
    bias = GaussianRadialBias(4, num_gaussians)(torch.linspace(0, 1000, 50))
    assert bias.shape == (50, 4) and bias.isfinite().all()
