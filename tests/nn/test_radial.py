from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from e3nn.math import soft_unit_step
from torch import Tensor, nn

from stofm_geo.nn import GaussianRadial, SoftOneHotRadial
from tests.nn.helpers import attend, leaves_of, make_conv, make_graph, subset

BASES = ["smooth_finite", "cosine", "fourier"]
SOFT = partial(SoftOneHotRadial, cutoff=5.0)


@pytest.fixture
def radial() -> GaussianRadial:
    torch.manual_seed(0)
    radial = GaussianRadial(3, num_gaussians=8, max_distance=10).double()
    with torch.no_grad():  # so that every term of the formula matters
        radial.scale.fill_(0.7)
        radial.shift.fill_(0.3)
        radial.std[::2] *= -1
    return radial


def slow(radial: GaussianRadial, d: float) -> Tensor:
    if d == 0:
        return torch.zeros(radial.out_channels, dtype=torch.float64)
    gaussians = []
    for mean, std in zip(radial.mean.tolist(), radial.std.tolist(), strict=True):
        s = abs(std) + 1e-5
        y = radial.scale.item() * d + radial.shift.item()
        gaussians.append(math.exp(-(((y - mean) / s) ** 2) / 2) / (math.sqrt(2 * math.pi) * s))
    hidden = radial.hidden.weight @ torch.tensor(gaussians).double() + radial.hidden.bias
    return radial.out.weight @ hidden.clamp_min(0) + radial.out.bias


def star(*lengths: float) -> dict[str, Tensor]:
    """Node 0 hears of others that lie around it, at these distances; node 1 hears of nobody."""
    draw = torch.Generator().manual_seed(0)
    count = len(lengths) + 2
    angle = torch.arange(1.0, len(lengths) + 1, dtype=torch.float64)
    arms = torch.tensor(lengths).double()[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    source = torch.arange(2, count)
    return {
        "x": torch.rand(count, 5, generator=draw, dtype=torch.float64),
        "pos": torch.cat([torch.zeros(1, 2), torch.full((1, 2), 50.0), arms]),
        "edge_index": torch.stack([source, torch.zeros_like(source)]),
    }


def test_gaussians_are_those_of_the_formula(radial: GaussianRadial) -> None:
    distance = torch.tensor([0.0, 1e-9, 0.1, 1.0, 3.3, 10.0, 100.0], dtype=torch.float64)
    expected = torch.stack([slow(radial, d) for d in distance.tolist()])
    torch.testing.assert_close(radial(distance), expected, atol=1e-7, rtol=1e-6)


def test_no_distance_no_bias(radial: GaussianRadial) -> None:
    bias = radial(torch.tensor([0.0, -0.0, 2.0], dtype=torch.float64))
    assert (bias[:2] == 0).all() and (bias[2] != 0).all()


@pytest.mark.parametrize("make", [GaussianRadial, SOFT])
def test_no_edges(make) -> None:
    assert make(3)(torch.empty(0)).shape == (0, 3)


def test_gradients(radial: GaussianRadial) -> None:
    distance = torch.tensor([0.0, 0.4, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(radial, distance[1:].detach().requires_grad_())
    radial(distance).sum().backward()
    assert distance.grad[0] == 0
    for name, parameter in radial.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gaussians_start_denser_at_short_range_and_cover_the_range() -> None:
    radial = GaussianRadial(2, num_gaussians=32, max_distance=30)
    steps = radial.mean.diff()
    assert radial.mean[0] == 0 and (steps[1:] > steps[:-1]).all()
    assert radial.mean[-1] + 2 * radial.std[-1] > 30
    y = torch.linspace(0, 30, 400)[:, None]
    reach = (-0.5 * ((y - radial.mean) / radial.std).square()).exp().amax(dim=1)
    assert reach.min() > 0.5


def test_reset_and_repr(radial: GaussianRadial) -> None:
    radial.reset_parameters()
    assert radial.scale == 1 and radial.shift == 0 and (radial.std > 0).all()
    assert repr(radial) == "GaussianRadial(3, num_gaussians=8)"
    soft = SoftOneHotRadial(3, 5.0, 8, "cosine")
    before = [p.clone() for p in soft.parameters()]
    soft.reset_parameters()
    assert not any(map(torch.equal, before, soft.parameters()))
    assert repr(soft) == "SoftOneHotRadial(3, cutoff=5.0, num_basis=8, basis='cosine')"


@pytest.mark.parametrize("number", [1, 2, 128])
def test_any_number_of_bases(number: int) -> None:
    distance = torch.linspace(0, 1000, 50)
    for radial in (
        GaussianRadial(4, number),
        *(SoftOneHotRadial(4, 900, number, b) for b in BASES),
    ):
        value = radial(distance)
        assert value.shape == (50, 4) and value.isfinite().all()


@pytest.mark.parametrize("basis", BASES)
def test_soft_one_hot_is_0_at_0_and_from_the_cutoff_on(basis: str) -> None:
    torch.manual_seed(0)
    radial = SoftOneHotRadial(3, 5.0, basis=basis).double()
    inside = torch.linspace(0.3, 4.7, 30, dtype=torch.float64)
    outside = torch.tensor([0.0, 5.0, 5.1, 100.0, 1e9], dtype=torch.float64)
    assert radial(outside).abs().max() < 1e-15 and (radial(inside) != 0).any(dim=1).all()
    near = torch.tensor([1e-7, 5 - 1e-7], dtype=torch.float64)
    torch.testing.assert_close(radial(near), torch.zeros(2, 3).double(), atol=1e-5, rtol=0)
    assert torch.autograd.gradcheck(radial, inside.requires_grad_())


def test_the_envelope_is_e3nns_soft_step() -> None:
    radial = SoftOneHotRadial(3, 5.0)
    distance = torch.linspace(0, 8, 200, dtype=torch.float64)
    left = 10 * (1 - distance / 5)
    expected = soft_unit_step(left) / soft_unit_step(torch.tensor(10.0).double())
    torch.testing.assert_close(radial.log_envelope(distance).exp(), expected)
    assert radial.log_envelope(torch.zeros(1)) == 0
    beyond = radial.log_envelope(torch.tensor([5.0, 6.0, 1e9]))
    assert (beyond == -torch.inf).all()
    distance.requires_grad_()
    radial.log_envelope(distance).exp().sum().backward()
    assert distance.grad.isfinite().all() and (distance.grad <= 0).all()


@pytest.mark.parametrize("vector_channels", [0, 2])
def test_an_edge_fades_out_towards_the_cutoff(vector_channels: int) -> None:
    conv = make_conv(radial=SOFT, vector_channels=vector_channels)
    without = conv(**star(1.0))[0]
    lengths = torch.linspace(4.0, 5.5, 301).tolist()
    seen = [attend(conv, star(1.0, length)) for length in lengths]
    weight = torch.stack([result.alpha[1] for result in seen])
    assert (weight[0] > 0.01).all()
    assert (weight.diff(dim=0) <= 0)[150:].all() and weight.diff(dim=0).abs().max() < 0.02
    assert weight[195:200].max() < 1e-6 and (weight[201:] == 0).all()
    out = torch.stack([result.x[0] for result in seen])
    assert out.diff(dim=0).abs().max() < 0.05 * (out[0] - out[-1]).abs().max()
    torch.testing.assert_close(out[201:], without.expand(100, -1))


def test_an_edge_beyond_the_cutoff_is_as_no_edge(options: dict) -> None:
    conv = make_conv(**{**options, "radial": SOFT})
    graph = make_graph(conv, n=20, edges=120)
    source, destination = (graph["pos"][end] for end in graph["edge_index"])
    near = ((source - destination).norm(dim=1) < 5).nonzero().flatten()
    assert 30 < len(near) < 100
    result, fewer = attend(conv, graph), attend(conv, subset(graph, edge=near))
    torch.testing.assert_close(result[:2], fewer[:2])
    torch.testing.assert_close(result.pair[near], fewer.pair)
    torch.testing.assert_close(result.alpha[near], fewer.alpha)
    total = torch.zeros(20, 3).double().index_add(0, graph["edge_index"][1], result.alpha)
    torch.testing.assert_close(result.alpha.sum(), fewer.alpha.sum())
    assert ((total - 1).abs() < 1e-9).logical_or(total == 0).all()


def test_a_node_whose_edges_are_all_beyond_the_cutoff_is_isolated(options: dict) -> None:
    conv = make_conv(**{**options, "radial": SOFT})
    graph = make_graph(conv)
    graph["pos"][4] = 1e3
    graph = subset(graph, edge=(graph["edge_index"][0] != graph["edge_index"][1]).nonzero()[:, 0])
    others = (graph["edge_index"] != 4).all(dim=0).nonzero()[:, 0]
    elsewhere = subset(graph, edge=others)
    leaves = leaves_of(graph)
    result, isolated = attend(conv, {**graph, **leaves}), attend(conv, elsewhere)
    torch.testing.assert_close(result[:2], isolated[:2])
    assert (result.alpha[graph["edge_index"][1] == 4] == 0).all()
    parts = [result.x, *([] if result.vectors is None else [result.vectors])]
    sum(part.square().sum() for part in parts).backward()
    grads = [leaf.grad for leaf in leaves.values()] + [p.grad for p in conv.parameters()]
    for tensor in parts + [grad for grad in grads if grad is not None]:
        assert tensor.isfinite().all()


def test_nodes_at_one_place_are_within_the_cutoff() -> None:
    conv = make_conv(radial=SOFT)
    graph = star(0.0, 4.0)
    assert (conv(**graph, return_attention_weights=True)[1][1] > 0).all()
    graph["pos"][2] = torch.nan
    assert (conv(**graph, return_attention_weights=True)[1][1] > 0).all()


def test_any_module_can_be_radial() -> None:
    def radial(size: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, size, bias=False))

    conv = make_conv(radial=radial, vector_channels=2)
    assert conv.geometry.radial[1].weight.shape == (3 * (1 + 2), 1)
    before = conv.geometry.radial[1].weight.clone()
    assert conv(**make_graph(conv)).isfinite().all()
    conv.reset_parameters()
    assert not torch.equal(before, conv.geometry.radial[1].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0.0}, "cutoff must be positive and finite; found 0.0"),
        ({"cutoff": -1}, "cutoff must be positive and finite; found -1"),
        ({"cutoff": math.nan}, "cutoff must be positive and finite; found nan"),
        ({"cutoff": 1, "basis": "gaussian"}, r"unknown basis 'gaussian'; choose one of \['smooth_"),
    ],
)
def test_what_cannot_be_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftOneHotRadial(3, **options)
