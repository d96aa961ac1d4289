"""How the time of edge attention grows: over edges, degrees, heads and channels, hubs, threads.

The operator alone (:func:`stofm_geo.ops.edge_attention`), float32 on a CPU, forward without
gradients, and forward with backward. Graphs are made before the timing.

- ``edges``: nearest neighbours of points in a plane, with the nodes in random order, and sorted
  by position in strips (as a user may sort them once): neighbours are then near in memory, too.
  Exponents are slopes of lines through the logarithms.
- ``degree``: random neighbours, equally many edges.
- ``shape``: heads and channels down to one of each, beside plain gathers and scatters
  (``reference``), which lose where ratios are above 1.
- ``hub``: a share of all edges ends at one node.
- ``threads``: one and two; with more processors there is more to gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._section import Headline, Panel, Section, Table, brief, line, ratio, spread
from benchmarks.speed._timing import interleaved
from stofm_geo.ops import EdgeGraph, edge_attention
from stofm_geo.transforms import SpatialKNN

MODES = {"forward": "Forward", "training": "Forward and backward"}
STRIP = 5.0  # width of the strips in distances between nodes


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    edges: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    neighbours: int = 12
    shape: tuple[int, int] = (8, 16)
    degrees: tuple[int, ...] = (4, 16, 64, 256, 512)
    of_degrees: int = 1_000_000
    shapes: tuple[tuple[int, int], ...] = ((1, 1), (1, 8), (4, 4), (4, 16), (8, 32))
    of_shapes: int = 100_000
    hubs: tuple[float, ...] = (0.0, 0.1, 0.5)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 30
    seconds: float = 4.0  # of each, in 5 runs or more


QUICK = Sizes(
    (300, 600), 4, (2, 4), (2, 8), 300, ((1, 1), (2, 4)), 300, (0.0, 0.5), (1,), 2, 0.1
)  # fmt: skip


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Times over all sizes."""
    sizes = QUICK if given.quick else Sizes()
    rows = []
    for mode in MODES:
        for edges in sizes.edges:
            rows.append(watch(f"growth: {edges} edges, {mode}", over_edges, edges, mode, sizes))
        for degree in sizes.degrees:
            rows.append(
                watch(f"growth: degree {degree}, {mode}", over_degrees, degree, mode, sizes)
            )
        for shape in sizes.shapes:
            rows.append(watch(f"growth: shape {shape}, {mode}", over_shapes, shape, mode, sizes))
        rows.append(watch(f"growth: hubs, {mode}", over_hubs, mode, sizes))
        rows.append(watch(f"growth: threads, {mode}", over_threads, mode, sizes))
    settings = {**asdict(sizes), "threads_of_all": torch.get_num_threads()}
    return {"settings": settings, "rows": rows}


def over_edges(edges: int, mode: str, sizes: Sizes) -> dict[str, Any]:
    """Nodes in random order, and sorted."""
    nodes = edges // sizes.neighbours
    pos = np.random.default_rng(0).random((nodes, 2)) * nodes**0.5
    orders = {
        "random order": np.arange(nodes),
        "sorted": np.lexsort((pos[:, 1], np.floor(pos[:, 0] / STRIP))),
    }
    works, count = {}, 0
    for name, order in orders.items():
        data = SpatialKNN(sizes.neighbours)(Data(pos=torch.from_numpy(pos[order])))
        count = data.edge_index.size(1)
        works[name] = attention(EdgeGraph(data.edge_index, nodes), sizes.shape, mode)
    return _row("edges", count, mode, works, "random order", sizes)


def over_degrees(degree: int, mode: str, sizes: Sizes) -> dict[str, Any]:
    """One number of edges, with more or fewer neighbours for each node."""
    graph = random_graph(max(sizes.of_degrees // degree, 1), degree)
    return _row(
        "degree", degree, mode, {"ours": attention(graph, sizes.shape, mode)}, "ours", sizes
    )


def over_shapes(shape: tuple[int, int], mode: str, sizes: Sizes) -> dict[str, Any]:
    """Some number of heads and channels, beside gathers and scatters of PyTorch."""
    graph = random_graph(sizes.of_shapes // sizes.neighbours, sizes.neighbours)
    works = {
        name: attention(graph, shape, mode, backend)
        for name, backend in (("ours", "auto"), ("reference", "reference"))
    }
    return _row("shape", " x ".join(map(str, shape)), mode, works, "ours", sizes)


def over_hubs(mode: str, sizes: Sizes) -> dict[str, Any]:
    """A share of the edges ends at one node."""
    nodes, works = sizes.of_degrees // sizes.neighbours, {}
    without_hub = random_graph(nodes, sizes.neighbours).edge_index
    for share in sizes.hubs:
        edge_index = without_hub.clone()
        edge_index[1, : int(share * edge_index.size(1))] = 0
        works[f"{share:.0%}"] = attention(EdgeGraph(edge_index, nodes), sizes.shape, mode)
    return _row("hub", "all", mode, works, next(iter(works)), sizes)


def over_threads(mode: str, sizes: Sizes) -> dict[str, Any]:
    """Each number of threads."""
    nodes, before = sizes.of_degrees // sizes.neighbours, torch.get_num_threads()
    once = attention(random_graph(nodes, sizes.neighbours), sizes.shape, mode)

    def with_threads(count: int) -> Callable[[], None]:
        def work() -> None:
            torch.set_num_threads(count)
            once()

        work()
        return work

    try:
        works = {str(count): with_threads(count) for count in sizes.threads}
        return _row("threads", "all", mode, works, str(sizes.threads[0]), sizes)
    finally:
        torch.set_num_threads(before)


def random_graph(nodes: int, degree: int) -> EdgeGraph:
    """Edges of random sources, equally many to each node."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(nodes, (nodes * degree,), generator=generator)
    target = torch.arange(nodes).repeat_interleave(degree)
    return EdgeGraph(torch.stack([source, target]), nodes)


def attention(
    graph: EdgeGraph, shape: tuple[int, int], mode: str, backend: str = "auto"
) -> Callable[[], None]:
    """Attention over a graph, called once already."""
    generator = torch.Generator().manual_seed(0)
    training = mode == "training"

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).requires_grad_(training)

    q, k, v = (draw(graph.num_dst, *shape) for _ in range(3))
    bias = draw(graph.edge_index.size(1), shape[0])
    slope = torch.ones_like(q)

    def once() -> None:
        with torch.set_grad_enabled(training):
            out, _, _ = edge_attention(q, k, v, bias, graph, backend=backend)
        if training:
            torch.autograd.grad(out, (q, k, v, bias), slope)

    once()
    return once


def _row(
    kind: str,
    size: int | str,
    mode: str,
    works: dict[str, Callable[[], None]],
    base: str,
    sizes: Sizes,
) -> dict[str, Any]:
    times = interleaved(works, base, sizes.rounds, sizes.seconds)
    return {"kind": kind, "size": size, "mode": mode, "times": times}


def report(result: dict[str, Any]) -> Section:
    """Times over each quantity, and exponents over edges."""
    rows = result["rows"]
    lines = [
        (row["kind"], _text(row["size"]), row["mode"], name, spread(own), ratio(own))
        for row in rows
        for name, own in row["times"].items()
    ]
    columns = ("over", "size", "mode", "", "ms (quartiles)", "times the first")
    panels, exponents, headlines = [], [], []
    for mode, title in MODES.items():
        of = [row for row in rows if row["mode"] == mode and row["kind"] == "edges"]
        points = {
            name: line([(row["size"], row["times"][name]["median_ms"]) for row in of])
            for name in of[0]["times"]
        }
        panels.append(Panel(f"Edge attention, {title.lower()}", "edges", "ms", points))
        slopes = {name: exponent(times) for name, times in points.items()}
        exponents += [(mode, name, brief(slope)) for name, slope in slopes.items()]
        largest, own = of[-1]["size"], of[-1]["times"]
        gain = own["random order"]["median_ms"] / own["sorted"]["median_ms"]
        what = f"attention, {_text(largest)} edges, sorted nodes, {title.lower()}"
        time = f"{brief(own['sorted']['median_ms'])} ms"
        headlines.append(Headline(what, time, f"random order {brief(gain)}"))
    tables = [
        Table("Growth", columns, lines),
        Table("Exponents of time over edges", ("mode", "nodes", "exponent"), exponents),
    ]
    return Section(tables, panels, headlines)


def exponent(points: list[tuple[float, float]]) -> float:
    """Slope of the line through the logarithms of sizes and times."""
    size, time = np.log(points).T
    return float(np.polyfit(size, time, 1)[0])


def _text(size: float | str) -> str:
    return size if isinstance(size, str) else brief(size)
