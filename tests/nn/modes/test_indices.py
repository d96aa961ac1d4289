"""An edge that names a node that does not exist is an IndexError in every mode."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from stofm_geo.nn import SE2Transformer, SE2TransformerConv
from stofm_geo.ops import EdgeGraph, edge_attention, edge_sum

N = 20
BAD = [-1, N, 10**9, -(2**62), 2**62]


def layer(**options: object) -> Callable[[Tensor], Tensor]:
    conv = SE2TransformerConv(6, 4, 2, **options)
    x, pos = torch.ones(N, 6), None if options else torch.ones(N, 2)
    return lambda edge_index: conv(x, edge_index, pos=pos)


def stack() -> Callable[[Tensor], Tensor]:
    blocks, x, pos = SE2Transformer(6, 1, 2, dropout=0.0), torch.ones(N, 6), torch.ones(N, 2)
    return lambda edge_index: blocks(x, edge_index, pos).x


def attention(edge_index: Tensor, backend: str = "auto") -> Tensor:
    q, bias = torch.ones(N, 2, 4), torch.ones(edge_index.size(1), 2)
    return edge_attention(q, q, q, bias, edge_index, backend=backend)[0]


def sums(edge_index: Tensor, backend: str = "auto") -> Tensor:
    weight = torch.ones(edge_index.size(1), 2)
    return edge_sum(weight, torch.ones(N, 2, 4), edge_index, backend=backend)


def graph(edge_index: Tensor) -> Tensor:
    return EdgeGraph(edge_index, N).edge_index + 0


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv": layer(),
    "conv, no positions": layer(radial=None),
    "conv, reference": layer(radial=None, backend="reference"),
    "stack": stack(),
    "edge_attention": attention,
    "edge_attention, reference": partial(attention, backend="reference"),
    "edge_sum": sums,
    "edge_sum, reference": partial(sums, backend="reference"),
    "EdgeGraph": graph,
}


def edges_with(row: int, bad: int, edges: int) -> Tensor:
    edge_index = torch.randint(N, (2, edges), generator=torch.Generator().manual_seed(0))
    edge_index[row, edges // 3] = bad
    return edge_index


def message(row: int, bad: int) -> str:
    side = ("source", "destination")[row]
    return re.escape(f"edge_index[{row}] holds {bad}, but there are {N} {side} nodes")


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("call", CALLS)
def test_eager(call: str, row: int, edges: int) -> None:
    for bad in BAD:
        with pytest.raises(IndexError, match=message(row, bad)):
            CALLS[call](edges_with(row, bad, edges))


# Of the layer's programs, which take seconds, one; the others by `pytest -m slow`.
SLOW = ("conv, no positions", "conv, reference", "stack")


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=[pytest.mark.slow] * (call in SLOW)) for call in CALLS]
)
def test_compiled(call: str) -> None:
    torch._dynamo.reset()

    def called(edge_index: Tensor) -> Tensor:
        return CALLS[call](edge_index)

    compiled = torch.compile(called, dynamic=True, backend="aot_eager")
    right = edges_with(0, 3, 500)
    torch.testing.assert_close(compiled(right), CALLS[call](right))
    for row in (0, 1):
        for bad, edges in zip(BAD, (500, 9_999, 10_000, 60_000, 500), strict=True):
            with pytest.raises(IndexError, match=message(row, bad)):
                compiled(edges_with(row, bad, edges))


@pytest.mark.parametrize("row", [0, 1])
def test_of_two_kinds_of_nodes(row: int) -> None:
    layer = SE2TransformerConv((6, 6), 4, 2, radial=None)
    x = torch.ones(5, 6), torch.ones(8, 6)
    edge_index = torch.zeros(2, 10, dtype=torch.long)
    edge_index[row, 4] = (5, 8)[row]
    size, side = (5, 8)[row], ("source", "destination")[row]
    expected = re.escape(f"edge_index[{row}] holds {size}, but there are {size} {side} nodes")
    with pytest.raises(IndexError, match=expected):
        layer(x, edge_index)
