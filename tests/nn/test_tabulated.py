from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from stofm_geo.nn import GaussianRadial, SE2TransformerConv, geometry
from stofm_geo.nn.tabulated import (
    _can_be_tabulated,
    _Content,
    _knots,
    _parameters,
    tabulated,
)

KINDS = ["as made", "many", "narrow", "moved", "turned round", "left of 0", "trained"]


def radial(kind: str, out_channels: int = 8, seed: int = 0) -> GaussianRadial:
    torch.manual_seed(seed)
    radial = GaussianRadial(out_channels, num_gaussians=128 if kind == "many" else 32)
    with torch.no_grad():
        if kind == "narrow":
            radial.mean.uniform_(0, 30)
            radial.std.uniform_(0.02, 0.5)[::2] *= -1
        elif kind == "moved":
            radial.scale.fill_(1.7)
            radial.shift.fill_(-0.4)
        elif kind == "turned round":
            radial.scale.fill_(-0.8)
            radial.shift.fill_(20)
        elif kind == "left of 0":
            radial.mean.sub_(25)
    if kind == "trained":
        trained(radial)
    return radial


def trained(radial: GaussianRadial) -> None:
    """Fit steps and waves, which makes Gaussians narrow and hidden units large."""
    optimizer = torch.optim.Adam(radial.parameters(), lr=3e-2)
    target = torch.arange(1, radial.out_channels + 1)
    for _ in range(150):
        distance = 30 * torch.rand(500, 1)
        wanted = 5 * ((distance * target).sin() + (distance > target).float())
        optimizer.zero_grad()
        (radial(distance[:, 0]) - wanted).square().mean().backward()
        optimizer.step()


def distances(count: int = 60_000) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    found = 60 * torch.rand(count, generator=draw, dtype=torch.float64) ** 2
    found[:10] = 0
    return found


def gradients(function: nn.Module, value: Tensor, slope: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad((value * slope).sum(), list(function.parameters()))
    return dict(zip(dict(function.named_parameters()), found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-5, 1e-3])
def test_values_are_within_the_tolerance(kind: str, tolerance: float) -> None:
    for seed in range(2):
        function = radial(kind, seed=seed).double()
        with torch.no_grad():
            for scaled, at in ((False, distances()), (True, distances() - 20)):
                exact = function.forward_scaled(at) if scaled else function(at)
                value = tabulated(function, at, tolerance, scaled=scaled)
                error = (value - exact).abs().max()
                assert 0 < error <= tolerance * (exact.max() - exact.min())
                if not scaled:
                    assert (value[:10] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_in_single_precision_it_is_as_near_as_the_exact_one(kind: str) -> None:
    function, at = radial(kind), distances()
    with torch.no_grad():
        exact = copy.deepcopy(function).double()(at)
        errors = [
            (value.double() - exact).abs().max() / (exact.max() - exact.min())
            for value in (tabulated(function, at.float(), 1e-5), function(at.float()))
        ]
    assert errors[0] < 1e-5 + errors[1]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_parameter(kind: str) -> None:
    function, at = radial(kind).double(), distances()
    # Of a loss that is smooth in the distance, and of one that is noise.
    for slope in ((at[:, None] / 9).cos(), torch.randn(len(at), 8)):
        exact = gradients(function, function(at), slope.double())
        found = gradients(function, tabulated(function, at, 1e-5), slope.double())
        for name in exact:
            assert (found[name] - exact[name]).norm() < 5e-3 * exact[name].norm(), name


def test_inference_and_training_give_the_same_bytes() -> None:
    function, at = radial("as made"), distances().float()
    with torch.no_grad():
        value = tabulated(function, at, 1e-5)
    assert torch.equal(tabulated(function, at, 1e-5), value)


def test_nothing_is_kept() -> None:
    conv = SE2TransformerConv(6, 4, heads=2)
    before = len(pickle.dumps(conv))
    x, edge_index = torch.randn(50, 6), torch.randint(50, (2, 12_000))
    pos = 5 * torch.randn(50, 2)
    conv(x, edge_index, pos=pos)
    assert len(pickle.dumps(conv)) == before
    with torch.no_grad():
        first = conv(x, edge_index, pos=pos)
        conv.geometry.radial.out.weight.data.mul_(3)
        exact = SE2TransformerConv(6, 4, heads=2, tolerance=None)
        exact.load_state_dict(conv.state_dict())
        expected = exact(x, edge_index, pos=pos)
        torch.testing.assert_close(conv(x, edge_index, pos=pos), expected, atol=1e-4, rtol=1e-4)
    assert (first - expected).abs().max() > 1e-2


class Doubled(GaussianRadial):
    """A subclass with a function of its own."""

    def forward(self, distance: Tensor) -> Tensor:
        return 2 * super().forward(distance)


def changed(kind: str) -> nn.Module:
    function = radial("as made")
    if kind == "pruned":
        prune.l1_unstructured(function.hidden, "weight", 0.5)
        with torch.no_grad():  # what a step of an optimiser does: weight is stale until a call
            function.hidden.weight_orig.mul_(-1.5)
    elif kind == "weight norm":
        nn.utils.parametrizations.weight_norm(function.out)
    elif kind == "old weight norm":
        nn.utils.weight_norm(function.out)
        with torch.no_grad():
            function.out.weight_g.mul_(3)
    elif kind == "quantised":
        function = torch.ao.quantization.quantize_dynamic(function, {nn.Linear})
    elif kind == "hook":
        function.register_forward_hook(lambda module, args, out: 2 * out)
    elif kind == "hook on a part":
        function.hidden.register_forward_hook(lambda module, args, out: 2 * out)
    elif kind == "subclass":
        function = Doubled(8)
    elif kind == "no scale":
        with torch.no_grad():
            function.scale.zero_()
    elif kind == "NaN":
        with torch.no_grad():
            function.mean[3] = torch.nan
    return function


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    "kind",
    [
        "pruned", "weight norm", "old weight norm", "quantised", "hook", "hook on a part",
        "subclass", "no scale", "NaN",
    ],
)  # fmt: skip
def test_what_is_no_plain_radial_function_is_evaluated_exactly(kind: str) -> None:
    function, at = changed(kind), distances(12_000).float()
    value = tabulated(function, at, 1e-5)
    assert torch.equal(value.nan_to_num(), function(at).nan_to_num())
    if kind == "pruned":
        by_hand = radial("as made")
        with torch.no_grad():
            mask = function.hidden.weight_mask
            by_hand.hidden.weight.copy_(-1.5 * by_hand.hidden.weight * mask)
        torch.testing.assert_close(value, by_hand(at))


def test_a_table_larger_than_the_distances_is_not_made() -> None:
    function = radial("narrow")
    knots, active = _knots(_Content.of(_parameters(function)), 1e-5, False)
    assert len(knots) == len(active) > 1000
    at = distances(4 * len(knots) - 1).float()
    assert torch.equal(tabulated(function, at, 1e-5), function(at))
    at = distances(4 * len(knots)).float()
    assert not torch.equal(tabulated(function, at, 1e-5), function(at))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_table_that_is_kept_is_that_of_the_present_values(mode) -> None:
    function, at = radial("as made"), distances().float()
    with mode():
        first = tabulated(function, at, 1e-5)
        assert torch.equal(first, tabulated(function, at, 1e-5))
        function.out.bias.data.numpy()[0] += 1.0  # raises no version
        second = tabulated(function, at, 1e-5)
        apart = at > 0
        torch.testing.assert_close(second[apart, 0], first[apart, 0] + 1)
        assert torch.equal(second[:, 1:], first[:, 1:])
        wide = tabulated(copy.deepcopy(function).double(), at.double(), 1e-5)
        torch.testing.assert_close(wide.float(), second)
    # Then in training, and with the radial function frozen.
    value = tabulated(function, at, 1e-5)
    torch.testing.assert_close(value, second, rtol=0, atol=0)
    assert torch.autograd.grad(value.sum(), function.hidden.weight)[0].abs().sum() > 0
    function.requires_grad_(False)
    factor = torch.ones(1, requires_grad=True)
    (slope,) = torch.autograd.grad((factor * tabulated(function, at, 1e-5)).sum(), factor)
    torch.testing.assert_close(slope[0], second.sum())


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_hidden_units_of_zero(offset: float) -> None:
    function = radial("as made").double()
    with torch.no_grad():
        function.hidden.weight[:5] = 0
        function.hidden.bias.fill_(offset)
    at = distances()
    exact = function(at)
    error = (tabulated(function, at, 1e-5) - exact).abs().max()
    assert error <= 1e-5 * (exact.max() - exact.min())


def test_where_positions_have_gradients_it_is_exact() -> None:
    function = radial("as made")
    at = distances(20_000).float().requires_grad_()
    assert not _can_be_tabulated(function, at)
    tabulated(function, at, 1e-5).sum().backward()
    assert at.grad.isfinite().all()


def test_a_layer_uses_it_from_many_edges_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        geometry, "tabulated", lambda radial, at, tolerance: called.append(1) or radial(at)
    )
    conv = SE2TransformerConv(6, 4, heads=2)
    exact = SE2TransformerConv(6, 4, heads=2, tolerance=None)
    x, pos = torch.randn(50, 6), torch.randn(50, 2)
    for edges, layer, times in ((9_999, conv, 0), (10_000, exact, 0), (10_000, conv, 1)):
        layer(x, torch.randint(50, (2, edges)), pos=pos)
        assert len(called) == times


def test_double_precision_is_exact() -> None:
    conv = SE2TransformerConv(6, 4, heads=2).double()
    exact = SE2TransformerConv(6, 4, heads=2, tolerance=None).double()
    exact.load_state_dict(conv.state_dict())
    x, pos = torch.randn(50, 6, dtype=torch.float64), 5 * torch.randn(50, 2, dtype=torch.float64)
    edge_index = torch.randint(50, (2, 12_000))
    assert torch.equal(conv(x, edge_index, pos=pos), exact(x, edge_index, pos=pos))
