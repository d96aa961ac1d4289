from __future__ import annotations

import operator

import pytest
import torch

from stofm_geo.nn import GaussianRadial, SE2TransformerConv, geometry
from stofm_geo.nn.tabulated import Tabulated


def radial(kind: str) -> GaussianRadial:
    torch.manual_seed(0)
    radial = GaussianRadial(8, num_gaussians=128 if kind == "many" else 32)
    with torch.no_grad():
        if kind == "narrow":
            radial.mean.uniform_(0, 30)
            radial.std.uniform_(0.02, 0.5)
        elif kind == "moved":
            radial.scale.fill_(1.7)
            radial.shift.fill_(-0.4)
    return radial


@pytest.mark.parametrize("kind", ["as made", "many", "narrow", "moved"])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-3])
def test_the_error_is_within_the_tolerance(kind: str, tolerance: float) -> None:
    function = radial(kind).double()
    distance = 60 * torch.rand(50_000, dtype=torch.float64) ** 2
    distance[:10] = 0
    with torch.no_grad():
        exact = function(distance)
        error = (Tabulated(tolerance)(function, distance) - exact).abs().max()
    assert error <= tolerance * (exact.max() - exact.min())
    assert (exact[:10] == 0).all()


def test_gradients_reach_the_parameters() -> None:
    function = radial("moved")
    distance = 60 * torch.rand(20_000) ** 2
    table, grads = Tabulated(1e-5), []
    for evaluate in (function, lambda distance: table(function, distance)):
        function.zero_grad()
        evaluate(distance).sin().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in function.parameters()]))
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[0].norm()


def test_it_notices_other_parameters_and_longer_distances() -> None:
    function, table = radial("as made"), Tabulated(1e-4)
    distance = 10 * torch.rand(1000)
    with torch.no_grad():
        for change in (lambda: None, lambda: function.out.weight.mul_(2), lambda: distance.mul_(5)):
            change()
            exact = function(distance)
            error = (table(function, distance) - exact).abs().max()
            assert error < 2e-4 * (exact.max() - exact.min())
        kept = [*table._kept.values()]
        table(function, distance)
        assert all(map(operator.is_, table._kept.values(), kept))  # nothing is made anew


def test_what_came_before_changes_no_byte() -> None:
    function, used = radial("as made"), Tabulated(1e-5)
    short, long = 10 * torch.rand(1000), 60 * torch.rand(1000)
    with torch.no_grad():
        used(function, long)
        assert torch.equal(used(function, short), Tabulated(1e-5)(function, short))


def test_a_layer_uses_it_on_many_edges_and_not_where_positions_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(geometry, "_MANY", 100)
    torch.manual_seed(0)
    args = torch.randn(50, 6), torch.randint(50, (2, 500)), 5 * torch.randn(50, 2)
    conv = SE2TransformerConv(6, 4, heads=2, vector_channels=2)
    exact = SE2TransformerConv(6, 4, heads=2, vector_channels=2, tolerance=None)
    exact.load_state_dict(conv.state_dict())
    assert exact.geometry.tabulated is None
    used = conv.geometry.tabulated
    out = conv(*args)
    assert used._kept
    torch.testing.assert_close(out, exact(*args), atol=1e-4, rtol=1e-4)
    used._kept.clear()
    conv(*args[:2], args[2].requires_grad_()).sum().backward()
    assert not used._kept and args[2].grad.isfinite().all()
