"""Worker of :mod:`benchmarks.speed.against`: times functions of the library that it imports.

Run as a script with another checkout first on ``PYTHONPATH``; so it uses only what every checkout
has. It prints the names of its works as JSON, then for each name that it reads the seconds of one
call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch_geometric.data import Data

from stofm_geo.nn import SE2Transformer, SE2TransformerConv
from stofm_geo.ops import edge_attention
from stofm_geo.transforms import SpatialKNN

# Nodes and neighbours: some 10 000 edges, from which on radial functions are tabulated, and 320 000
# (the search keeps ties and both directions, so there are some more).
SIZES = {"10 thousand edges": (850, 11), "320 thousand edges": (10_000, 27)}
HEADS, CHANNELS = 8, 32


def works(nodes: int, neighbours: int) -> dict[str, Callable[[], None]]:
    """Return works on one graph by name; each was called once."""
    torch.manual_seed(0)
    width = HEADS * CHANNELS
    pos = torch.rand(nodes, 2) * nodes**0.5
    edges = SpatialKNN(neighbours)(Data(pos=pos)).edge_index
    x = torch.randn(nodes, width)
    q, k, v = torch.randn(3, nodes, HEADS, CHANNELS).unbind()
    bias = torch.randn(edges.size(1), HEADS)
    conv = SE2TransformerConv(width, CHANNELS, HEADS)
    vectors = SE2TransformerConv(width, CHANNELS, HEADS, vector_channels=4)
    features = SE2TransformerConv(width, CHANNELS, HEADS, edge_dim=4)
    stack = SE2Transformer(width, 3, HEADS, dropout=0.0)
    edge_attr = torch.randn(edges.size(1), 4)
    given = [q, k, v, bias]
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    functions: dict[str, tuple[Callable[[], torch.Tensor], nn.Module | None]] = {
        "layer": (lambda: conv(x, edges, pos=pos), conv),
        "layer, vectors": (lambda: vectors(x, edges, pos=pos), vectors),
        "layer, edge features": (
            lambda: features(x, edges, pos=pos, edge_attr=edge_attr),
            features,
        ),
        "stack of 3": (lambda: stack(x, edges, pos).x, stack),
        "attention": (
            lambda: edge_attention(*(leaves if torch.is_grad_enabled() else given), edges)[0],
            None,
        ),
    }
    found = {}
    for name, (function, module) in functions.items():
        found[f"{name}, forward"] = _inference(function, module)
        found[f"{name}, training"] = _training(function, module)
    for work in found.values():
        work()
    return found


def _inference(function: Callable[[], torch.Tensor], module: nn.Module | None) -> Callable:
    def work() -> None:
        if module is not None:
            module.eval()
        with torch.no_grad():
            function()

    return work


def _training(function: Callable[[], torch.Tensor], module: nn.Module | None) -> Callable:
    def work() -> None:
        if module is not None:
            module.train()
        function().sum().backward()

    return work


def main() -> None:
    """Serve."""
    todo = {f"{what}, {size}": f for size, of in SIZES.items() for what, f in works(*of).items()}
    print(json.dumps(list(todo)), flush=True)
    for line in sys.stdin:
        work = todo[line.strip()]
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
