"""Attention and layers on a GPU: ours beside eager and compiled PyG, in turns.

Checked before they are timed: the fused kernels give what the reference gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import TransformerConv

from benchmarks.speed._timing import interleaved
from stofm_geo.benchmark.records import environment
from stofm_geo.nn import SE2Transformer, SE2TransformerConv
from stofm_geo.ops import EdgeGraph, edge_attention
from stofm_geo.transforms import SpatialKNN

# Nodes, neighbours, heads, channels a head.
SIZES = ((10_000, 12, 8, 16), (10_000, 32, 8, 32), (100_000, 16, 8, 32))
QUICK = ((60, 4, 2, 8),)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the largest number


def measure(device: str, quick: bool) -> dict[str, Any]:
    """Time all contenders on all sizes.

    Args:
        device: ``"cuda"``; or ``"cpu"``, to try the measurement itself.
        quick: Small sizes, two rounds.

    Raises:
        ValueError: There is no such device, or a contender gives other numbers.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device; run this on a machine with one")
    rows = []
    for size in QUICK if quick else SIZES:
        for dtype in _TOLERANCE:
            for training in (False, True):
                works = contenders(*size, dtype, device, training)
                times = interleaved(works, "ours", rounds=2 if quick else 50, seconds=1.0)
                row = {"size": size, "dtype": str(dtype), "training": training, "times": times}
                rows.append(row)
                found = {name: f"{of['ratio']:.1f}" for name, of in times.items()}
                print(f"{size}, {dtype}, {'training' if training else 'forward'}: {found}")
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return {"environment": environment(), "device": name, "rows": rows}


def contenders(
    nodes: int, neighbours: int, heads: int, channels: int,
    dtype: torch.dtype, device: str, training: bool,
) -> dict[str, Callable[[], None]]:  # fmt: skip
    """Return works by name: the op ``ours``, and layers; each was called once."""
    torch.manual_seed(0)
    width = heads * channels
    pos = torch.rand(nodes, 2) * nodes**0.5
    edges = SpatialKNN(neighbours)(Data(pos=pos)).edge_index.to(device)
    pos = pos.to(device)
    x = torch.randn(nodes, width, device=device, dtype=dtype)
    graph = EdgeGraph(edges, nodes)
    q, k, v = (torch.randn(nodes, heads, channels, device=device, dtype=dtype) for _ in range(3))
    bias = torch.randn(edges.size(1), heads, device=device)
    leaves = [tensor.requires_grad_(training) for tensor in (q, k, v, bias)]

    def op(backend: str) -> Callable[[], Tensor]:
        return lambda: edge_attention(*leaves, graph, backend=backend)[0]

    _check(op("auto")(), op("reference")(), _TOLERANCE[dtype])
    theirs = TransformerConv(width, channels, heads).to(device, dtype)
    ours = SE2TransformerConv(width, channels, heads).to(device, dtype)
    vectors = SE2TransformerConv(width, channels, heads, vector_channels=4).to(device, dtype)
    stack = SE2Transformer(width, 3, heads, dropout=0.0).to(device, dtype)
    compiled = torch.compile(theirs, dynamic=False)
    functions = {
        "ours": op("auto"),
        "reference": op("reference"),
        "TransformerConv": lambda: theirs(x, edges),
        "compiled TransformerConv": lambda: compiled(x, edges),
        "SE2TransformerConv": lambda: ours(x, graph, pos=pos),
        "SE2TransformerConv, vectors": lambda: vectors(x, graph, pos=pos),
        "SE2Transformer": lambda: stack(x, edges, pos).x,
    }
    works = {name: _work(function, training, device) for name, function in functions.items()}
    for work in works.values():
        work()
    return works


def _work(function: Callable[[], Tensor], training: bool, device: str) -> Callable[[], None]:
    def work() -> None:
        with torch.set_grad_enabled(training):
            out = function()
        if training:
            out.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return work


def _check(found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= tolerance:
        raise ValueError(f"the kernels give other numbers than the reference: off by {error:.1e}")
