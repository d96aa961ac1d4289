"""The layer and the stack on a GPU, at sizes on both sides of where tables begin; run by gpu.sh."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from stofm_geo.nn import SE2Transformer, SE2TransformerConv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SIZES = (500, 9_999, 10_000, 60_000)
MODULES = {
    "layer": partial(SE2TransformerConv, 32, 8, 4),
    "vectors": partial(SE2TransformerConv, 32, 8, 4, vector_channels=4),
    "stack": partial(SE2Transformer, 32, 2, 4, dropout=0.0),
    "stack with vectors": partial(SE2Transformer, 32, 2, 4, dropout=0.0, vector_channels=4),
}


def graph(edges: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(edges)
    n = edges // 20
    x = torch.randn(n, 32, generator=draw)
    return x, torch.randint(n, (2, edges), generator=draw), 8 * torch.rand(n, 2, generator=draw)


def run(module: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, edge_index, pos = (part.to(next(module.parameters()).device) for part in given)
    found = module(x.to(next(module.parameters()).dtype), edge_index, pos=pos)
    return found if isinstance(found, Tensor) else found.x


@pytest.mark.parametrize("edges", SIZES)
@pytest.mark.parametrize("kind", MODULES)
def test_values_and_gradients_are_those_of_the_cpu(kind: str, edges: int) -> None:
    torch.manual_seed(0)
    exact = MODULES[kind](tolerance=None, backend="reference").double()
    module = MODULES[kind]().cuda()
    module.load_state_dict(exact.state_dict())
    given = graph(edges)
    out, expected = run(module, given), run(exact, given)
    torch.testing.assert_close(out.cpu().double(), expected, atol=2e-4, rtol=2e-4)
    slope = torch.randn(expected.shape, dtype=torch.float64)
    (out * slope.to(out)).sum().backward()
    (expected * slope).sum().backward()
    pairs = list(zip(module.named_parameters(), exact.parameters(), strict=True))
    largest = max(float(other.grad.norm()) for _, other in pairs)
    for (name, own), other in pairs:  # some gradients are 0 but for rounding: a bias of keys
        error = (own.grad.cpu().double() - other.grad).norm()
        assert error < 2e-2 * max(float(other.grad.norm()), 1e-2 * largest), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("edges", SIZES)
def test_autocast(edges: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = MODULES["stack"]().cuda()
    given = graph(edges)
    expected = run(module, given)
    with torch.autocast("cuda", dtype):
        out = run(module, given)
    out.float().square().mean().backward()
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_fused_steps_and_validation() -> None:
    torch.manual_seed(0)
    module = MODULES["layer"]().cuda()
    given = graph(60_000)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, fused=True)
    for _ in range(5):
        optimizer.zero_grad()
        run(module, given).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            exact = MODULES["layer"](tolerance=None).cuda()
            exact.load_state_dict(copy.deepcopy(module.state_dict()))
            expected = run(exact, given)
            torch.testing.assert_close(run(module, given), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_indices_that_are_not_there(bad: int) -> None:
    module = MODULES["layer"]().cuda()
    x, edge_index, pos = graph(500)
    edge_index[0, 7] = bad
    with pytest.raises(IndexError, match=rf"edge_index\[0\] holds {bad}"):
        run(module, (x, edge_index, pos))
