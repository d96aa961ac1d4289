"""The whole encoder at the published size, against the published dense model: time and memory.

``python -m benchmarks.speed.encoder --reference DIR -o benchmarks/results/encoder.json``, where DIR
is a checkout of the GitHub repository PharMolix/SToFM; without it only ours is run. Minutes.

One sub-slice of 1000 cells, 49 virtual cells and CLS; 4 layers, 256 channels, 8 heads, 128
Gaussians, float32 on a CPU, random weights. Both models are a linear map of the features, an
embedding of the types of nodes, and the transformer.

- ``published``: every node attends to every node; its matrix of distances is the published one.
- ``ours, library``: edges as the library makes them: 12 nearest cells, ties kept, both ways;
  virtual cells and CLS joined to all cells and to each other.
- ``ours, published weights``: :class:`stofm_geo.models.official.OfficialNetwork`, the published
  function: every node attends to every node. In training it gives the pair states of as many pairs
  as the distance loss asks for, the published model those of all.
- ``ours, published pairs``: the pairs with a distance of their own in the published matrix: 49
  nearest nodes, made symmetric, rows and columns of virtual cells and of CLS, the diagonal.

Edges (ours) and matrix (published) are made outside of the timing; ours still sorts its edges in
each call. ``forward`` is evaluation without gradients; ``training`` a forward in training mode and
the backward of the sum of node outputs and pair states, without an optimizer. Dropout is 0 in both
unless ``--dropout`` says so (both were published with 0.1), since the dense model also drops
entries of its attention matrices, which costs it time.

Each row is a process of its own (``--repeats`` of them in turns, since a machine that is shared has
good and bad minutes), in which a tiny model has run before, so that libraries are loaded
and compiled code is there. ``first_s`` is the first call of ours, which makes the table of radial
functions (kept in evaluation as long as weights stay); later ones are timed. ``added_mb`` is the
peak of the resident memory less what was resident before the model and its inputs were made;
``peak_mb`` is the whole.

The published model comes from a checkout, see :mod:`benchmarks.speed._reference`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch_geometric.data import Data
from torch_geometric.nn import Linear
from torch_geometric.utils import scatter

import stofm_geo.transforms as T
from benchmarks._record import environment, write
from benchmarks.speed._memory import forget_peak, memory
from benchmarks.speed._reference import published_model
from benchmarks.speed._timing import clock
from stofm_geo.models.official import OfficialNetwork
from stofm_geo.models.official.network import Config
from stofm_geo.models.official.slices import NOT_TOLD, told_pairs
from stofm_geo.nn import GaussianRadial, SE2Transformer, conv, geometry, transformer

ROOT = Path(__file__).parents[2]
LAYERS, CHANNELS, HEADS, GAUSSIANS = 4, 256, 8, 128
CELL, CLS, MACRO = 0, 1, 2
SECONDS = 10.0  # of ours
OURS = ("library", "pairs", "weights")
NAMES = {
    "published": "published",
    "library": "ours, library",
    "pairs": "ours, published pairs",
    "weights": "ours, published weights",
}
ASKED = 0.15  # of the cells, whose pairs the distance loss asks for


class Slice:
    """CLS, virtual cells and cells, in the published order and the published units."""

    def __init__(self, cells: int, macro: int) -> None:
        draw = torch.Generator().manual_seed(0)
        place = torch.rand(cells, 2, generator=draw) - 0.5
        side = max(int(macro**0.5), 1)
        square = ((place + 0.5) * side).long()
        cluster = (square[:, 0] * side + square[:, 1]) % macro
        centre = scatter(place, cluster, dim_size=macro, reduce="mean")
        self.pos = torch.cat([torch.zeros(1, 2), centre, place]) * 100 / 2**0.5
        self.kind = torch.tensor([CLS] + [MACRO] * macro + [CELL] * cells)
        self.x = torch.randn(len(self.kind), CHANNELS, generator=draw)

    def library(self) -> Tensor:
        """Edges as ``SpatialKNN`` and ``MacroNodes`` make them."""
        near = T.SpatialKNN(12)(Data(pos=self.pos, node_type=self.kind))
        return T.JoinMacroNodes()(near).edge_index

    def told(self) -> tuple[Tensor, Tensor]:
        """The published pairs with a distance of their own as edges, and these distances."""
        return told_pairs(self.pos.double().numpy(), int((self.kind != CELL).sum()))

    def pairs(self) -> Tensor:
        """The published pairs as edges."""
        return self.told()[0]

    def matrix(self) -> Tensor:
        """The published matrix of distances."""
        n, ((src, dst), distance) = len(self.pos), self.told()
        return torch.full((n, n), NOT_TOLD).index_put((dst, src), distance)


class Ours(nn.Module):
    """The library's transformer, with the same maps before it as the published one."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(CHANNELS, CHANNELS)
        self.kind = nn.Embedding(3, CHANNELS)
        radial = partial(GaussianRadial, num_gaussians=GAUSSIANS)
        self.transformer = SE2Transformer(
            CHANNELS, LAYERS, HEADS, radial=radial, norm="post", dropout=dropout
        )

    def forward(self, x: Tensor, kind: Tensor, edge_index: Tensor, pos: Tensor) -> list[Tensor]:
        """Node outputs and pair states."""
        out = self.transformer(self.embedding(x) + self.kind(kind), edge_index, pos)
        return [out.x, out.pair]


def config(dropout: float) -> dict[str, Any]:
    """Of the published model, by its names."""
    return {
        "num_hidden_layers": LAYERS,
        "embedding_dim": CHANNELS,
        "ffn_embedding_dim": CHANNELS,
        "num_attention_heads": HEADS,
        "gaussian_hidden_dim": GAUSSIANS,
        "input_dim": CHANNELS,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), dropout),
    }


def stepper(
    name: str, mode: str, cells: int, macro: int, options: argparse.Namespace
) -> tuple[Callable[[], None], nn.Module, int]:
    """The work to time, the model, and how many pairs it looks at."""
    torch.manual_seed(0)
    part = Slice(cells, macro)
    if name == "published":
        model = published_model(options.reference, **config(options.dropout))
        matrix = part.matrix()
        given = (part.x[None], matrix[None], part.kind[None])
        pairs = matrix.numel()

        def run() -> list[Tensor]:
            result = model(*given)
            return [result["last_hidden_state"], result["pair_rep"]]
    elif name == "weights":
        model = OfficialNetwork(Config(**config(options.dropout)))
        edge_index, distance = part.told()
        data = Data(x=part.x, node_type=part.kind, edge_index=edge_index, edge_attr=distance)
        pairs = len(part.x) ** 2
        asked = (torch.rand(len(part.x)) < ASKED / 2)[data.edge_index].any(0)
        asked = data.edge_index[:, asked] if mode == "training" else None

        def run() -> list[Tensor]:
            result = model(data, asked)
            return list(result) if mode == "training" else [result]
    else:
        model, edge_index = Ours(options.dropout), getattr(part, name)()
        pos = part.pos.masked_fill((part.kind == CLS)[:, None], torch.nan)  # CLS has no place
        pairs = edge_index.size(1)

        def run() -> list[Tensor]:
            return model(part.x, part.kind, edge_index, pos)

    def forward() -> None:
        with torch.no_grad():
            run()

    def training() -> None:
        model.zero_grad()
        sum(result.sum() for result in run()).backward()

    model.train(mode == "training")
    return {"forward": forward, "training": training}[mode], model, pairs


def shares(step: Callable[[], None], model: nn.Module) -> dict[str, float]:
    """Share of the time of each part of ours, the backward's with the part it belongs to.

    ``geometry`` is distances, ``radial functions`` the bias made of them, ``edge attention`` the
    op, ``graph`` its sorting, ``linear maps`` all others than the radial functions' own.
    """

    def labelled(part: str, function: Callable) -> Callable:
        def call(*args: Any, **more: Any) -> Any:
            with record_function(f"part: {part}"):
                return function(*args, **more)

        return call

    own: set[nn.Module] = set()  # what makes the bias, maps and all
    for module in model.modules():  # parents first
        if isinstance(module, geometry.EdgeGeometry):
            own |= set(module.modules())
            module.forward = labelled("radial functions", module.forward)
        elif isinstance(module, nn.Linear | Linear) and module not in own:
            module.forward = labelled("linear maps", module.forward)
    with (
        mock.patch.object(conv, "edge_attention", labelled("edge attention", conv.edge_attention)),
        mock.patch.object(geometry, "edge_geometry", labelled("geometry", geometry.edge_geometry)),
        mock.patch.object(transformer, "EdgeGraph", labelled("graph", transformer.EdgeGraph)),
    ):
        step()
        with profile(activities=[ProfilerActivity.CPU]) as found, record_function("part: rest"):
            step()
    spent: dict[str, float] = defaultdict(float)
    made: dict[int, str] = {}  # the number of each autograd node -> the part that made it
    for event in sorted(found.events(), key=lambda event: event.time_range.start):
        part, above = "", event
        while above is not None and not part:  # the innermost label
            if above.name.startswith("autograd::engine::evaluate_function"):
                part = made.get(above.sequence_nr, "rest")
            elif above.name.startswith("part: "):
                part = made[event.sequence_nr] = above.name.removeprefix("part: ")
            above = above.cpu_parent
        spent[part or "rest"] += event.self_cpu_time_total
    return {part: time / sum(spent.values()) for part, time in spent.items()}


def one(name: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory, in this process."""
    torch.set_num_threads(options.threads)
    stepper(name, mode, 60, 4, options)[0]()
    forget_peak()  # that of the imports
    before = memory("VmRSS")
    step, model, pairs = stepper(name, mode, options.cells, options.macro, options)
    row: dict[str, Any] = {"model": NAMES[name], "mode": mode, "pairs": pairs}
    times: list[float] = []
    if name == "published":
        runs = options.runs if mode == "forward" else min(options.runs, 2)
    else:
        row["first_s"] = clock(step)
        runs = 10 * options.runs
    while len(times) < runs and (len(times) < 3 or name == "published" or sum(times) < SECONDS):
        times.append(clock(step))
    peak = memory("VmHWM")
    row |= {"median_s": statistics.median(times), "seconds": times}
    row |= {"added_mb": peak - before, "peak_mb": peak}
    if name in ("library", "pairs"):
        row["shares"] = shares(step, model)
    return row


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a model and mode: medians over its processes; ratios of those run side by side."""
    found = []
    for model, mode in dict.fromkeys((row["model"], row["mode"]) for row in rows):
        own = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
        dense = [row for row in rows if (row["model"], row["mode"]) == ("published", mode)]
        of = {"model": model, "mode": mode, "pairs": own[0]["pairs"]}
        for name in ("median_s", "added_mb", "peak_mb"):
            of[name] = statistics.median(row[name] for row in own)
        if dense and model != "published":
            times = [b["median_s"] / a["median_s"] for a, b in zip(own, dense, strict=True)]
            of |= {"times_faster": statistics.median(times), "each_times_faster": times}
            less = [b["added_mb"] / max(a["added_mb"], 1) for a, b in zip(own, dense, strict=True)]
            of["times_smaller"] = statistics.median(less)
        found.append(of)
    return found


def show(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    print(f"\n{'':34}   pairs  seconds  added MB  peak MB   times faster (each), smaller (added)")
    summary = together(rows)
    for row in summary:
        text = f"{row['model']:24}{row['mode']:10}{row['pairs']:8}{row['median_s']:9.3f}"
        text += f"{row['added_mb']:10.0f}{row['peak_mb']:9.0f}"
        if "times_faster" in row:
            each = ", ".join(f"{times:.1f}" for times in row["each_times_faster"])
            text += f"   {row['times_faster']:.1f} ({each}), {row['times_smaller']:.1f}"
        print(text)
    for row in rows:
        if "shares" in row:
            parts = sorted(row["shares"].items(), key=lambda item: -item[1])
            print(f"{row['model']}, {row['mode']}:", end=" ")
            print(", ".join(f"{part} {100 * share:.0f} %" for part, share in parts))
    return summary


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--reference", type=Path, help="a checkout of PharMolix/SToFM")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--macro", type=int, default=49)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="published; ours ten times as many")
    parser.add_argument("--repeats", type=int, default=1, help="processes of each, in turns")
    parser.add_argument("--ours", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--modes", nargs="+", default=["forward", "training"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # a row, in this process
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(one(*options.one, options)))
        return
    names = [*options.ours, *(["published"] if options.reference else [])]
    if not options.reference:
        print("the published model is not run: no --reference")
    passed = ["--cells", "--macro", "--dropout", "--threads", "--runs"]
    given = [f"{flag}={getattr(options, flag[2:])}" for flag in passed]
    given.append(f"--output={options.output}")
    if options.reference:
        given.append(f"--reference={options.reference.resolve()}")
    rows = []
    for mode, _ in itertools.product(options.modes, range(options.repeats)):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.speed.encoder", *given]
            command += ["--one", name, mode]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(result.stderr)
            rows.append(json.loads(result.stdout.splitlines()[-1]))
            print(f"{NAMES[name]}, {mode}: {rows[-1]['median_s']:.3f} s", flush=True)
    summary = show(rows)
    settings = {flag[2:]: getattr(options, flag[2:]) for flag in passed}
    result = {"environment": environment(), "threads": options.threads, "settings": settings}
    write(
        result | {"reference_run": bool(options.reference), "summary": summary, "rows": rows},
        options.output,
    )


if __name__ == "__main__":
    main()
