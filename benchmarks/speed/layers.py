"""One layer of graph attention as users call it, with its linear maps: ours beside PyG's.

Nodes in a plane with their nearest neighbours, features of some width, float32 on a CPU; forward
without gradients, and forward with backward of the sum of the output. ``messages`` is our layer
with each message written down, as ``MessagePassing`` does it, where the kernels sum over edges
without (``fuse = False``).

- ``TransformerConv``, ``GATv2Conv``: PyG's, which know no positions.
- ``ours``: ``SE2TransformerConv``, distances in the logits.
- ``dropout``: a tenth of the attention weights dropped, training alone.
- ``vectors``: with four vector channels a head, which turn with the positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GATv2Conv, TransformerConv

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._section import (
    Headline,
    Panel,
    Section,
    Table,
    beside,
    brief,
    line,
    ratio,
    spread,
)
from benchmarks.speed._timing import interleaved
from stofm_geo.nn import SE2TransformerConv
from stofm_geo.transforms import SpatialKNN

MODES = {"forward": "Forward", "training": "Forward and backward"}
DROPOUT, VECTORS = 0.1, 4


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    nodes: tuple[int, ...] = (1_000, 10_000)
    neighbours: int = 12
    width: int = 128
    heads: int = 8
    rounds: int = 60
    seconds: float = 6.0  # of each, in 5 runs or more


QUICK = Sizes((100,), 4, 16, 2, 2, 0.1)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Times of all layers, over numbers of nodes."""
    sizes = QUICK if given.quick else Sizes()
    rows = [
        watch(f"layers: {nodes} nodes, {mode}", compared, nodes, mode, sizes)
        for nodes in sizes.nodes
        for mode in MODES
    ]
    settings = {**asdict(sizes), "threads": torch.get_num_threads()}
    return {"settings": settings, "rows": rows}


def compared(nodes: int, mode: str, sizes: Sizes) -> dict[str, Any]:
    """Times at one size."""
    torch.manual_seed(0)
    pos = torch.rand(nodes, 2, dtype=torch.float64) * nodes**0.5
    edge_index = SpatialKNN(sizes.neighbours)(Data(pos=pos)).edge_index
    x = torch.randn(nodes, sizes.width)
    training = mode == "training"

    def work(layer: nn.Module, **where: torch.Tensor) -> Callable[[], None]:
        layer.train(training)

        def once() -> None:
            with torch.set_grad_enabled(training):
                out = layer(x, edge_index, **where)
            if training:
                out.sum().backward()

        once()
        return once

    works = {name: work(layer) for name, layer in theirs(sizes).items()}
    works |= {name: work(layer, pos=pos) for name, layer in ours(sizes, training).items()}
    times = interleaved(works, "ours", sizes.rounds, sizes.seconds)
    return {"nodes": nodes, "edges": edge_index.size(1), "mode": mode, "times": times}


def theirs(sizes: Sizes) -> dict[str, nn.Module]:
    """PyG's layers of the width."""
    shape = (sizes.width, sizes.width // sizes.heads, sizes.heads)
    return {"TransformerConv": TransformerConv(*shape), "GATv2Conv": GATv2Conv(*shape)}


def ours(sizes: Sizes, training: bool) -> dict[str, nn.Module]:
    """Our layer with its options, fused and as messages."""
    options: dict[str, dict[str, Any]] = {"": {}, "vectors": {"vector_channels": VECTORS}}
    if training:
        options["dropout"] = {"dropout": DROPOUT}
    made: dict[str, nn.Module] = {}
    for option, values in options.items():
        for fuse in (True, False):
            shape = (sizes.width, sizes.width // sizes.heads, sizes.heads)
            layer = SE2TransformerConv(*shape, **values)
            layer.fuse = fuse
            parts = ("ours", option, "" if fuse else "messages")
            made[", ".join(part for part in parts if part)] = layer
    return made


def report(result: dict[str, Any]) -> Section:
    """Milliseconds, and how many times as long as our plain layer each takes."""
    rows = result["rows"]
    lines = [
        (*map(brief, (row["nodes"], row["edges"])), row["mode"], name, spread(own), ratio(own))
        for row in rows
        for name, own in row["times"].items()
    ]
    columns = ("nodes", "edges", "mode", "layer", "ms (quartiles)", "times ours")
    panels = []
    for mode, title in MODES.items():
        of = {row["nodes"]: row["times"] for row in rows if row["mode"] == mode}
        names = dict.fromkeys(name for times in of.values() for name in times)
        points = {
            name: line([(nodes, times[name]["median_ms"]) for nodes, times in of.items()])
            for name in names
        }
        panels.append(Panel(f"One layer, {title.lower()}", "nodes", "ms", points))
    largest = max(rows, key=lambda row: (row["nodes"], row["mode"] == "training"))
    return Section([Table("One layer", columns, lines)], panels, _headlines(**largest))


def _headlines(nodes: int, times: dict[str, dict[str, Any]], **_: Any) -> list[Headline]:
    """Of training, our layer without and with vectors, beside PyG's."""
    found = []
    for name in ("ours", "ours, vectors"):
        own = times[name]
        others = {
            other: row["ratio"] / own["ratio"]
            for other, row in times.items()
            if not other.startswith("ours")
        }
        what = f"layer{name.removeprefix('ours')}, {brief(nodes)} nodes, forward and backward"
        found.append(Headline(what, f"{brief(own['median_ms'])} ms", beside(others)))
    return found
