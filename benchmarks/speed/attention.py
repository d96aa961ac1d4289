"""The edge attention op alone, against what else PyTorch and PyG users would write.

float32 on a CPU, forward (without gradients) and forward with backward (gradients of q, k, v and
the bias, from a gradient of the attended values). The first calls compile for minutes.

Contenders, all checked to give the same numbers before they are timed in turns:

- ``ours``: ``stofm_geo.ops.edge_attention``; ``reference``, ``scatter``: its other backends, eager.
- ``compiled ...``: the same maths written with gathers and scatters, and with sums over segments
  of sorted edges; and with PyG's ``softmax``; each by ``torch.compile`` for the very sizes, in one
  graph. The best of them counts.
- ``TransformerConv``: PyG's layer without its linear maps: ``propagate`` with queries, keys and
  values given, so gathers, products, softmax, weighting and sum. It knows no bias and returns no
  logits, and so does less; eager and compiled.
- ``padded``: neighbours gathered to ``[N, K, H, C]``, two einsums and a softmax between them, where
  each node has the same number of neighbours; eager and compiled.
- ``dense``: ``scaled_dot_product_attention`` with a bias ``[1, H, N, N]`` that is ``-inf`` where no
  edge is, up to 4000 nodes; the making of that bias is not timed. Returns no logits.

The graph is made outside of the timing (its time is shown apart), as are the layouts of the others.

What of our time is irreducible: the larger of multiply-adds at the speed of a GEMM and of bytes at
the speed of a copy, both measured in the same run, over our time. ``once`` counts each of q, k, v
and the result once, the bias and the logits once, and the indices once (with backward: all of it
again, and gradients). ``each read`` counts rows of k and v each time an edge reads them (with
backward: those of q and of the gradient, too); caches can beat it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch._inductor.config as inductor
from torch import Tensor

from benchmarks.speed._cases import Case, cases
from benchmarks.speed._contenders import Contender, contenders
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
from benchmarks.speed._timing import clock, interleaved, peaks
from stofm_geo.ops import EdgeGraph, available_backends

TOLERANCE = 1e-4  # of the largest number, where that is above 1
MODES = {"forward": "Forward", "training": "Forward and backward"}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    nodes: int = 10_000
    neighbours: int = 32
    heads: int = 8
    channels: int = 32
    rounds: int = 100  # at most
    seconds: float = 1.0  # of each contender, in 5 runs or more
    compiling: bool = True
    gemm: tuple[int, ...] = (1024, 1536, 2048)
    copied_mb: int = 512


QUICK = Sizes(120, 6, 2, 8, 2, 0.1, False, (128,), 8)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Graphs made, and attention of all contenders, over graphs and sizes of heads."""
    sizes = QUICK if given.quick else Sizes()
    inductor.compile_threads = 1  # no processes of its own, which would look like others' work
    torch.manual_seed(0)
    peak = peaks(sizes.gemm, sizes.copied_mb)
    without = {name: why for name, why in available_backends().items() if why}
    without.setdefault("triton", "this measures on a CPU")
    todo = cases(sizes.nodes, sizes.neighbours, sizes.heads, sizes.channels)
    graphs = [building(case, sizes.rounds) for case in todo[:4]]
    rows = []
    for case in todo:
        for mode in MODES:
            name = f"attention: {case.name}, {case.heads} x {case.channels}, {mode}"
            rows += watch(name, compared, case, mode == "training", sizes, peak)
    settings = {**asdict(sizes), "threads": torch.get_num_threads()}
    return {
        "settings": settings,
        "without": without,
        "peaks": peak,
        "building": graphs,
        "rows": rows,
    }


def report(result: dict[str, Any]) -> Section:
    """How many times as long as ours the others take, forward and backward, and graphs made."""
    rows, shape = result["rows"], ("graph", "nodes", "edges", "heads", "channels")
    names = list(dict.fromkeys(row["contender"] for row in rows))
    tables, panels, headlines = [], [], []
    for mode, title in MODES.items():
        of: dict[tuple, dict[str, dict]] = {}
        for row in rows:
            if row["mode"] == mode:
                of.setdefault(tuple(row[key] for key in shape), {})[row["contender"]] = row
        tables.append(_times(title, of, [name for name in names if name != "ours"]))
        if mode == "training":  # the table has the rest
            headlines = [_headline(*each) for each in of.items() if each[0][0] == "near"]
        near = {k[3] * k[4]: found for k, found in of.items() if k[0] == "near"}
        points = {
            name: line(
                [(width, found.get(name, {}).get("median_ms")) for width, found in near.items()]
            )
            for name in names
        }
        title = f"Attention, {title.lower()}"
        panels.append(Panel(title, "heads x channels", "ms", points))
    kinds = list(result["building"][0]["ms"])
    made = [
        (graph["graph"], brief(graph["edges"]), *(brief(graph["ms"][kind]) for kind in kinds))
        for graph in result["building"]
    ]
    tables.append(Table("The graph made once for all layers, ms", ("graph", "edges", *kinds), made))
    return Section(tables, panels, headlines)


def _headline(shape: tuple, found: dict[str, dict]) -> Headline:
    """Beside PyG's layer as it is, and whatever is fastest of the others."""
    _, _, edges, heads, channels = shape
    others = {k: row["ratio"] for k, row in found.items() if k != "ours" and "ratio" in row}
    shown = dict.fromkeys(("TransformerConv", *sorted(others, key=lambda name: others[name])[:1]))
    what = f"attention, {brief(edges)} edges, {heads} x {channels}, forward and backward"
    ratios = beside({name: others[name] for name in shown if name in others})
    return Headline(what, f"{brief(found['ours']['median_ms'])} ms", ratios)


def _times(title: str, of: dict[tuple, dict[str, dict]], others: list[str]) -> Table:
    columns = ("graph", "nodes", "edges", "heads x channels", "ours, ms (quartiles)")
    columns += ("irreducible (each read)", *others)
    rows = []
    for (graph, nodes, edges, heads, channels), found in of.items():
        ours, times = found["ours"], []
        for name in others:
            row = found.get(name, {})
            times.append(ratio(row) if "ratio" in row else row.get("failed", "-")[:60])
        shares = (f"{100 * ours[f'irreducible_{kind}']:.0f} %" for kind in ("once", "each_read"))
        size = (graph, brief(nodes), brief(edges), f"{heads} x {channels}", spread(ours))
        rows.append((*size, "{} ({})".format(*shares), *times))
    return Table(f"{title}: ours, and how many times as long the others take", columns, rows)


def prepared(
    contender: Contender, tensors: list[Tensor], slope: Tensor, training: bool
) -> Callable[[], list[Tensor]]:
    """The work to time: gives the result, and with ``training`` the gradients."""
    leaves = [*tensors[:3], contender.layout(tensors[3])]
    leaves = [leaf.detach().clone().requires_grad_(training) for leaf in leaves]

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [contender.attend(*leaves)]

    def both() -> list[Tensor]:
        out = contender.attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves[: 3 + contender.biased], slope)]

    return both if training else forward


def difference(found: list[Tensor], expected: list[Tensor], layout: Callable) -> float:
    """The largest, relative to the largest number where that is above 1."""
    worst = 0.0
    for index, (own, other) in enumerate(zip(found, expected, strict=False)):
        other = layout(other) if index == 4 else other  # the gradient of the bias
        there = other != -torch.inf
        gap = (own - other)[there].abs().max() / other[there].abs().max().clamp_min(1)
        worst = max(worst, float(gap))
    return worst


def irreducible(case: Case, training: bool, peak: dict[str, float], ms: float) -> dict[str, float]:
    """Shares of our time; see the module."""
    n, edges, width = case.nodes, case.edge_index.size(1), case.heads * case.channels
    per_edge = edges * case.heads
    flops = 2 * edges * 2 * width * (3 if training else 1)
    nodes, logits, index = 4 * n * width, 4 * per_edge, 8 * (edges + n + 1)
    once = 4 * nodes + 2 * logits + index
    read = once - 2 * nodes + 2 * 4 * edges * width
    if training:  # q, k, v, the result and its gradient, three gradients; logits, their gradient
        own = 2 * logits + 8 * (3 * edges + 2 * n + 2)
        once += 8 * nodes + own
        read += 4 * nodes + own + 4 * 4 * edges * width
    needed = flops / peak["gemm_gflops"] * 1e-6
    speed = peak["copy_gbytes"] * 1e6  # bytes a millisecond
    return {
        "irreducible_once": max(needed, once / speed) / ms,
        "irreducible_each_read": max(needed, read / speed) / ms,
    }


def compared(case: Case, training: bool, sizes: Sizes, peak: dict[str, float]) -> list[dict]:
    """A row a contender."""
    torch._dynamo.reset()
    heads, edges = case.heads, case.edge_index.size(1)
    draw = torch.Generator().manual_seed(0)
    shapes = [(case.nodes, heads, case.channels)] * 4 + [(edges, heads)]
    *tensors, slope, bias = (torch.randn(shape, generator=draw) for shape in shapes)
    tensors.append(bias)
    ways = contenders(case, sizes.compiling)
    expected = prepared(ways["reference"], tensors, slope, training)()
    without = prepared(ways["reference"], [*tensors[:3], bias * 0], slope, training)()
    shape = {"nodes": case.nodes, "edges": edges, "heads": heads, "channels": case.channels}
    mode = "training" if training else "forward"
    works, rows = {}, {}
    for name, way in ways.items():
        rows[name] = {"graph": case.name, **shape, "mode": mode, "contender": name}
        work = prepared(way, tensors, slope, training)
        try:
            rows[name]["first_call_s"] = clock(work)
        except Exception as error:  # torch.compile: whatever a backend raises
            rows[name]["failed"] = f"{type(error).__name__}: {str(error).strip()[:200]}"
            continue
        gap = difference(work(), expected if way.biased else without, way.layout)
        rows[name]["difference"] = gap
        if gap > TOLERANCE:
            raise AssertionError(f"{name} is off by {gap:.1e} on {case}")
        works[name] = work
    del expected, without
    for name, times in interleaved(works, "ours", sizes.rounds, sizes.seconds).items():
        rows[name].update(times)
    rows["ours"].update(irreducible(case, training, peak, rows["ours"]["median_ms"]))
    return list(rows.values())


def building(case: Case, rounds: int) -> dict[str, Any]:
    """Milliseconds to make the graph object, from sorted and from shuffled edges."""
    edges = case.edge_index.size(1)
    shuffled = case.edge_index[:, torch.randperm(edges)].contiguous()
    works = {}
    for kind, given in (("sorted", case.edge_index), ("shuffled", shuffled)):
        works[kind] = lambda e=given: EdgeGraph(e, case.nodes)
        works[f"{kind}, with reverse"] = lambda e=given: EdgeGraph(e, case.nodes).reverse
    for work in works.values():
        work()
    times = {k: v["median_ms"] for k, v in interleaved(works, "sorted", min(rounds, 20)).items()}
    return {"graph": case.name, "edges": edges, "ms": times}
