"""In half precision, under autocast, and at positions that are no plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from stofm_geo.nn import SE2TransformerConv
from stofm_geo.ops import EdgeGraph, available_backends, edge_attention, edge_sum
from tests.nn.helpers import make_conv

if TYPE_CHECKING:
    from tests.nn.modes.conftest import Subject

HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # relative rounding
BACKENDS = [name for name, reason in available_backends().items() if reason is None]
LAYERS = ["layer", "layer, all", "stack"]


@pytest.fixture(params=HALF, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square, as a share of that of what is right."""
    difference = found.double() - expected.double()
    return float(difference.square().mean().sqrt() / expected.double().square().mean().sqrt())


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().view(-1) for value in gradients.values()])


def with_backend(module: nn.Module, backend: str) -> nn.Module:
    for part in module.modules():
        if hasattr(part, "backend"):
            part.backend = backend
    return module


@pytest.mark.parametrize("kind", [*LAYERS, "edge_attention", "edge_sum"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(subject: Subject, dtype: torch.dtype, backend: str) -> None:
    if subject.kind == "edge_sum" and backend not in ("auto", "reference"):
        backend = "auto"
    module = with_backend(subject.make(dtype=torch.float32), backend)
    inputs = (subject.inputs.x.float(), *subject.inputs[1:])
    with torch.autocast("cpu", dtype):
        outputs = subject.outputs(module, inputs)
        loss = sum((part.float() * (part.detach().float() * 1.7).sin()).mean() for part in outputs)
    gradients = subject.slopes(module, loss)
    right, slopes = subject.expected()
    for found, expected in zip(outputs, right, strict=True):
        assert error(found, expected) < 6 * HALF[dtype]
    whole = [
        torch.cat([part[name].double().flatten() for name in slopes])
        for part in (gradients, slopes)
    ]
    assert all(value.dtype == torch.float32 for value in gradients.values())
    assert error(*whole) < 48 * HALF[dtype]  # a few dozen roundings


@pytest.mark.parametrize("kind", [*LAYERS, "edge_attention", "edge_sum"])
def test_half_layers(subject: Subject, dtype: torch.dtype) -> None:
    module = subject.make(dtype=torch.float32).to(dtype)
    exact = subject.make(exact=True)
    exact.load_state_dict({k: v.double() for k, v in module.state_dict().items()})
    x = subject.inputs.x.to(dtype)
    outputs = subject.outputs(module, (x, *subject.inputs[1:]))
    right = subject.outputs(exact, (x.double(), *subject.inputs[1:]))
    for found, expected in zip(outputs, right, strict=True):
        assert error(found, expected) < 6 * HALF[dtype]
    # The pair state stays in single precision.
    assert {part.dtype for part in outputs} <= {dtype, torch.float32}
    gradients = subject.gradients(module, (x, *subject.inputs[1:]))
    slopes = subject.gradients(exact, (x.double(), *subject.inputs[1:]))
    whole = [
        torch.cat([part[name].double().flatten() for name in slopes])
        for part in (gradients, slopes)
    ]
    assert error(*whole) < 48 * HALF[dtype]  # a few dozen roundings


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_beyond_what_half_precision_holds(
    edges: int, dtype: torch.dtype, backend: str
) -> None:
    draw = torch.Generator().manual_seed(0)
    n = edges // 25
    q, k, v = (200 * torch.randn(n, 2, 4, generator=draw) for _ in range(3))
    q, k, v = (t.to(dtype).requires_grad_() for t in (q, k, v / 200))
    edge_index = torch.randint(n, (2, edges), generator=draw)
    bias = torch.randn(edges, 2, generator=draw)
    single = [t.detach().double().requires_grad_() for t in (q, k, v)]
    graph = EdgeGraph(edge_index, n)
    out, logits, lse = edge_attention(q, k, v, bias, graph, backend=backend)
    right = edge_attention(*single, bias.double(), graph, backend="reference")
    assert right[1].abs().max() > 65504
    torch.testing.assert_close(out.double(), right[0], atol=2 * HALF[dtype], rtol=2 * HALF[dtype])
    torch.testing.assert_close(logits.double(), right[1], atol=0.1, rtol=1e-6)
    torch.testing.assert_close(lse.double(), right[2], atol=0.1, rtol=1e-6)
    found = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    slopes = torch.autograd.grad(right[0].square().sum(), single)
    for one, other in zip(found, slopes, strict=True):  # single precision tells such logits to 1 %
        close = 12 * HALF[dtype] * float(q.abs().max())
        torch.testing.assert_close(one.double(), other, atol=close, rtol=close)


def test_sums_of_half_numbers_are_in_single(edges: int, dtype: torch.dtype) -> None:
    """All to one node: summed in half precision, thousands of ones are 2048, or 256."""
    edge_index = torch.stack([torch.arange(edges) % 7, torch.zeros(edges, dtype=torch.long)])
    weight = torch.full((edges, 1), 0.125, dtype=dtype)
    for backend in ("auto", "reference"):
        out = edge_sum(weight, torch.ones(7, 1, 1, dtype=dtype), edge_index, backend=backend)
        assert out.dtype == dtype and out[0] == torch.tensor(edges / 8).to(dtype)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("kind_of_pos", [torch.int64, torch.int32, torch.float16, torch.float32])
def test_positions_of_any_type(subject: Subject, kind_of_pos: torch.dtype) -> None:
    pos = (40 * subject.inputs.pos if not kind_of_pos.is_floating_point else subject.inputs.pos).to(
        kind_of_pos
    )
    x, edge_index, _ = subject.inputs
    module, exact = subject.make(), subject.make(exact=True)
    found = subject.outputs(module, (x, edge_index, pos))
    right = subject.outputs(exact, (x, edge_index, pos.double()))
    # Whole numbers are differences in double precision, others in single.
    single = pos.is_floating_point() or subject.tabulated
    subject.assert_close(found, right, 2e-6 if single else 1e-12)


@pytest.mark.parametrize("nowhere", [torch.nan, torch.inf, -torch.inf])
def test_positions_that_are_none(edges: int, nowhere: float) -> None:
    """Edges of such a node have no bias: the right value from a layer that sees no positions."""
    conv = make_conv(6, 4, 2)
    blind = make_conv(6, 4, 2, radial=None)
    blind.load_state_dict(
        {name: value for name, value in conv.state_dict().items() if "geometry" not in name}
    )
    draw = torch.Generator().manual_seed(0)
    n = edges // 25
    x = torch.randn(n, 6, generator=draw, dtype=torch.float64)
    pos = 8 * torch.rand(n, 2, generator=draw, dtype=torch.float64)
    edge_index = torch.randint(n, (2, edges), generator=draw)
    away = torch.rand(n, generator=draw) < 0.2
    pos[away, 0] = nowhere
    src, dst = edge_index
    length = (pos[src] - pos[dst]).norm(dim=1).masked_fill(away[src] | away[dst], 0)
    bias = conv.geometry.radial(length)
    found = conv(x, edge_index, pos=pos, return_pair=True)
    expected = blind(x, edge_index, pair=bias, return_pair=True)
    close = 1e-6 if edges >= 10_000 else 1e-12
    torch.testing.assert_close(found, expected, atol=close, rtol=close)
    found[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in conv.parameters())


@pytest.mark.parametrize("kind", ["layer, all", "stack"])
def test_nan_and_infinity_are_the_same(subject: Subject) -> None:
    x, edge_index, pos = subject.inputs
    results = []
    for nowhere in (torch.nan, torch.inf, -torch.inf):
        given = pos.clone()
        given[::5] = nowhere
        results.append(subject.outputs(subject.make(), (x, edge_index, given)))
        assert all(part.isfinite().all() for part in results[-1])
        assert all(map(torch.equal, results[-1], results[0]))
    exact = subject.outputs(subject.make(exact=True), (x, edge_index, given))
    subject.assert_outputs(results[0], exact)


def test_a_layer_takes_double_positions_where_they_are_large() -> None:
    torch.manual_seed(0)
    conv = SE2TransformerConv(6, 4, 2)
    x, edge_index, pos = torch.randn(40, 6), torch.randint(40, (2, 500)), torch.rand(40, 2).double()
    found = conv(x, edge_index, pos=pos + 1e7)
    torch.testing.assert_close(found, conv(x, edge_index, pos=pos), atol=1e-6, rtol=1e-6)
