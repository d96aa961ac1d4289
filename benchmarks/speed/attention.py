"""The edge attention op alone, against what else PyTorch and PyG users would write.

``python -m benchmarks.speed.attention -o benchmarks/results/attention.json``: float32 on a CPU,
forward (without gradients) and forward with backward (gradients of q, k, v and the bias, from a
gradient of the attended values). The first run compiles for minutes; ``--no-compile`` skips that.

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

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import TransformerConv
from torch_geometric.utils import scatter, softmax, sort_edge_index

from benchmarks._record import environment, write
from benchmarks.speed._timing import clock, interleaved, peaks
from stofm_geo.ops import EdgeGraph, available_backends, edge_attention

TOLERANCE = 1e-4  # of the largest number, where that is above 1
DENSE_NODES = 4000
MACRO = 16
SMALL = 1050
SHAPES = ((1, 1), (3, 5), (4, 16), (8, 32), (8, 64))
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Case:
    """A graph, its edges sorted by destination, and a size of the heads."""

    name: str
    edge_index: Tensor
    nodes: int
    heads: int
    channels: int
    degree: int | None = None  # where all nodes have the same


@dataclass
class Contender:
    """One way to attend: from q, k, v and the bias in its own layout to ``[N, H, C]``."""

    attend: Attend
    layout: Callable[[Tensor], Tensor] = lambda bias: bias
    biased: bool = True


def by_destination(edge_index: Tensor, n: int) -> Tensor:
    return sort_edge_index(edge_index, num_nodes=n, sort_by_row=False)


def regular(n: int, degree: int, reach: int = 200) -> Tensor:
    """Each node joined to ``degree`` random others, at most ``reach`` places away."""
    reach = min(reach, (n - 1) // 2)
    offset = torch.cat([torch.arange(-reach, 0), torch.arange(1, reach + 1)])
    chosen = torch.rand(n, len(offset)).argsort(dim=1)[:, :degree]
    dst = torch.arange(n)[:, None].expand(-1, degree)
    return by_destination(torch.stack([(dst + offset[chosen]) % n, dst]).flatten(1), n)


def with_macro(edge_index: Tensor, n: int) -> Tensor:
    """More nodes, joined to all others, both ways."""
    macro = torch.arange(n, n + MACRO)
    there = torch.cartesian_prod(torch.arange(n), macro).t()
    among = torch.cartesian_prod(macro, macro).t()
    edges = [edge_index, there, there.flip(0), among[:, among[0] != among[1]]]
    return by_destination(torch.cat(edges, dim=1), n + MACRO)


def cases(options: argparse.Namespace) -> list[Case]:
    n, degree = options.nodes, options.neighbours
    own = (options.heads, options.channels)
    near = regular(n, degree)
    far = by_destination(torch.randperm(n)[near], n)
    cells = min(SMALL, n) - MACRO
    small = with_macro(regular(cells, min(12, degree)), cells)
    return [
        Case("near", near, n, *own, degree),
        Case("far", far, n, *own, degree),
        Case("macro nodes", with_macro(near, n), n + MACRO, *own),
        Case("small", small, cells + MACRO, *own),
        *(Case("near", near, n, *shape, degree) for shape in SHAPES if shape != own),
    ]


def contenders(case: Case, compiling: bool) -> dict[str, Contender]:
    n, heads, channels = case.nodes, case.heads, case.channels
    edge_index, (src, dst) = case.edge_index, case.edge_index
    graph = EdgeGraph(edge_index, n)
    _ = graph.reverse
    ptr, per_head = graph.ptr, dst[:, None].expand(-1, heads)
    conv = TransformerConv(heads * channels, channels, heads=heads, root_weight=False)

    def ours(backend: str) -> Attend:
        return lambda *tensors: edge_attention(*tensors, graph, backend=backend)[0]

    def logits_of(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        product = (q.index_select(0, dst) * k.index_select(0, src)).sum(-1)
        return product * channels**-0.5 + bias

    def by_scatter(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(q, k, bias)
        top = logits.new_full((n, heads), -torch.inf)
        top = top.scatter_reduce(0, per_head, logits.detach(), "amax")
        weight = (logits - top.index_select(0, dst)).exp()
        total = torch.zeros_like(top).scatter_add(0, per_head, weight)
        message = (weight[..., None] * v.index_select(0, src)).flatten(1)
        out = v.new_zeros(n, heads * channels)
        out = out.scatter_add(0, dst[:, None].expand_as(message), message)
        return out.view(n, heads, channels) / total[..., None], logits

    def by_segment(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def reduce(values: Tensor, kind: str) -> Tensor:
            return torch.segment_reduce(values, kind, offsets=ptr, axis=0)

        logits = logits_of(q, k, bias)
        weight = (logits - reduce(logits.detach(), "max").index_select(0, dst)).exp()
        message = (weight[..., None] * v.index_select(0, src)).flatten(1)
        out = reduce(message, "sum").view(n, heads, channels)
        return out / reduce(weight, "sum")[..., None], logits

    def by_pyg(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(q, k, bias)
        alpha = softmax(logits, dst, num_nodes=n)
        return scatter(alpha[..., None] * v.index_select(0, src), dst, dim_size=n), logits

    def transformer_conv(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=None)

    def padded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def gather(x: Tensor) -> Tensor:
            return x.index_select(0, src).view(n, -1, heads, channels)

        logits = torch.einsum("nhc,nkhc->nkh", q, gather(k)) * channels**-0.5 + bias
        return torch.einsum("nkh,nkhc->nhc", logits.softmax(dim=1), gather(v)), logits

    def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        rows = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(*rows, attn_mask=bias)[0].transpose(0, 1)

    def to_dense(bias: Tensor) -> Tensor:
        full = bias.new_full((heads, n, n), -torch.inf)
        full[:, dst, src] = bias.t()
        return full[None]

    def compiled(attend: Callable) -> Attend:
        fast = torch.compile(attend, dynamic=False, fullgraph=True)

        def first(*tensors: Tensor) -> Tensor:
            result = fast(*tensors)
            return result[0] if isinstance(result, tuple) else result

        return first

    found = {"ours": Contender(ours("auto")), "reference": Contender(ours("reference"))}
    if available_backends()["scatter"] is None:
        found["scatter"] = Contender(ours("scatter"))
    found["TransformerConv"] = Contender(transformer_conv, biased=False)
    if case.degree:
        grid = (n, case.degree, heads)
        found["padded"] = Contender(lambda *t: padded(*t)[0], lambda bias: bias.view(grid))
    if n <= DENSE_NODES:
        found["dense"] = Contender(dense, to_dense)
    if compiling:
        for name, work in (("scatter", by_scatter), ("segments", by_segment), ("softmax", by_pyg)):
            found[f"compiled {name}"] = Contender(compiled(work))
        found["TransformerConv compiled"] = Contender(compiled(transformer_conv), biased=False)
        if case.degree:
            found["padded compiled"] = Contender(compiled(padded), found["padded"].layout)
    return found


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


def measure(case: Case, training: bool, options: argparse.Namespace, peak: dict) -> list[dict]:
    torch._dynamo.reset()
    heads, edges = case.heads, case.edge_index.size(1)
    draw = torch.Generator().manual_seed(0)
    shapes = [(case.nodes, heads, case.channels)] * 4 + [(edges, heads)]
    *tensors, slope, bias = (torch.randn(shape, generator=draw) for shape in shapes)
    tensors.append(bias)
    ways = contenders(case, not options.no_compile)
    expected = prepared(ways["reference"], tensors, slope, training)()
    without = prepared(ways["reference"], [*tensors[:3], bias * 0], slope, training)()
    sizes = {"nodes": case.nodes, "edges": edges, "heads": heads, "channels": case.channels}
    mode = "training" if training else "forward"
    works, rows = {}, {}
    for name, way in ways.items():
        rows[name] = {"graph": case.name, **sizes, "mode": mode, "contender": name}
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
    for name, times in interleaved(works, "ours", options.rounds, options.seconds).items():
        rows[name].update(times)
    rows["ours"].update(irreducible(case, training, peak, rows["ours"]["median_ms"]))
    return list(rows.values())


def show(rows: list[dict[str, Any]]) -> None:
    of = rows[0]
    size = f"{of['nodes']} nodes, {of['edges']} edges, {of['heads']} x {of['channels']}"
    print(f"\n{of['graph']}: {size}, {of['mode']}\n{'':31}ms  quartiles          times ours")
    for row in rows:
        if "failed" in row:
            print(f"  {row['contender']:24} not run: {row['failed'].splitlines()[0]}")
            continue
        lower, upper = row["quartiles_ms"]
        text = f"{row['median_ms']:9.2f}  {lower:.2f} to {upper:.2f}"
        print(f"  {row['contender']:24}{text:30}{row['ratio']:6.2f}")
    own = [f"{100 * of[f'irreducible_{kind}']:.0f} %" for kind in ("once", "each_read")]
    print(f"  of ours irreducible: {own[0]} (once), {own[1]} (each read)")
    unfused = [r for r in rows if r["contender"].startswith("compiled") and "ratio" in r]
    if unfused:
        best = min(unfused, key=lambda row: row["ratio"])
        print(f"  best compiled unfused: {best['contender']}, {best['ratio']:.2f} times ours")


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
    print(f"graph {case.name}, {edges} edges, made in ms:", end=" ")
    print(", ".join(f"{kind} {ms:.2f}" for kind, ms in times.items()))
    return {"graph": case.name, "edges": edges, "ms": times}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    for name, default in (("nodes", 10000), ("neighbours", 32), ("heads", 8), ("channels", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100, help="most rounds")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each, in 5 runs or more")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    peak = peaks()
    print(", ".join(f"{name} {value:.1f}" for name, value in peak.items()))
    missing = {name: why for name, why in available_backends().items() if why}
    print(*(f"backend {name} not run: {why}" for name, why in missing.items()), sep="\n")
    todo = cases(options)
    graphs = [building(case, options.rounds) for case in todo[:4]]
    rows = []
    for case in todo:
        for training in (False, True):
            rows += (found := measure(case, training, options, peak))
            show(found)
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    result = {"environment": environment(), "settings": settings, "peaks": peak}
    result |= {"not_available": missing, "building": graphs, "rows": rows}
    write(result | {"threads": options.threads}, options.output)


if __name__ == "__main__":
    main()
