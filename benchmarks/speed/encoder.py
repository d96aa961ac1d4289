"""The whole encoder at the published size, against the published dense model: time and memory.

Sub-slices of 1000 and of 3950 cells, 49 virtual cells and CLS; 4 layers, 256 channels, 8 heads, 128
Gaussians, float32 on a CPU, random weights. Both models are a linear map of the features, an
embedding of the types of nodes, and the transformer.

- ``published``: every node attends to every node; its matrix of distances is the published one. It
  comes from a checkout (:mod:`benchmarks.speed._reference`), and is run up to 1000 cells: at 3950
  each of its ``[n, n, 128]`` tensors takes 8 GB.
- ``ours, library``: edges as the library makes them: 12 nearest cells, ties kept, both ways;
  virtual cells and CLS joined to all cells and to each other.
- ``ours, published weights``: :class:`stofm_geo.models.official.OfficialNetwork`, the published
  function: every node attends to every node. In training it gives the pair states of as many pairs
  as the distance loss asks for, the published model those of all.

Edges (ours) and matrix (published) are made outside of the timing; ours still sorts its edges in
each call. ``forward`` is evaluation without gradients; ``training`` a forward in training mode and
the backward of the sum of node outputs and pair states, without an optimizer. Dropout is 0 in both
(both were published with 0.1), since the dense model also drops entries of its attention matrices,
which costs it time.

Each row is a process of its own (some of each in turns, since a machine that is shared has good and
bad minutes), in which a tiny model has run before, so that libraries are loaded and compiled code
is there. ``first_s`` is the first call of ours, which makes the table of radial functions (kept in
evaluation as long as weights stay); later ones are timed. ``added_mb`` is the peak of the resident
memory less what was resident before the model and its inputs were made; ``peak_mb`` is the whole.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Panel, Section, Table, beside, brief, line
from stofm_geo.benchmark.memory import memory, reset_peak

SECONDS = 10.0  # of ours
NAMES = {
    "library": "ours, library",
    "weights": "ours, published weights",
    "published": "published",
}
MODES = ("forward", "training")


class Size(NamedTuple):
    """A sub-slice, and how often it is run."""

    cells: int
    macro: int
    runs: int  # of the published model; ours has ten times as many
    repeats: int  # processes of each model, in turns
    published: bool
    modes: tuple[str, ...] = MODES


FULL = (Size(1000, 49, 3, 3, True), Size(3950, 49, 3, 1, False))
QUICK = (Size(40, 4, 1, 1, True, ("training",)),)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Time and memory of each model and mode, over sizes."""
    sizes, rows = QUICK if given.quick else FULL, []
    without = {} if given.reference else {"the published model": "no --reference"}
    for size in sizes:
        names = [n for n in NAMES if n != "published" or (given.reference and size.published)]
        for mode, _, name in itertools.product(size.modes, range(size.repeats), names):
            case = f"encoder: {size.cells} cells, {mode}, {name}"
            rows.append(watch(case, fresh, one, name, mode, size, given.reference))
            print(f"encoder: {rows[-1]['cells']} cells, {NAMES[name]}, {mode}", flush=True)
    settings = {"sizes": [size._asdict() for size in sizes]}
    return {"settings": settings, "without": without, "rows": rows}


def one(name: str, mode: str, size: Size, reference: Path | None) -> dict[str, Any]:
    """Time and memory, in this process."""
    import torch  # here, since the process that starts this one needs none of it

    from benchmarks.speed._encoders import stepper
    from benchmarks.speed._shares import shares
    from benchmarks.speed._timing import clock

    stepper(name, mode, 60, 4, reference)[0]()
    reset_peak()  # that of the imports
    before = memory("VmRSS")
    step, model, pairs = stepper(name, mode, size.cells, size.macro, reference)
    row: dict[str, Any] = {"cells": size.cells, "macro": size.macro, "model": NAMES[name]}
    row |= {"mode": mode, "pairs": pairs, "threads": torch.get_num_threads()}
    times: list[float] = []
    if name == "published":
        runs = size.runs if mode == "forward" else min(size.runs, 2)
    else:
        row["first_s"] = clock(step)
        runs = 10 * size.runs
    while len(times) < runs and (len(times) < 3 or name == "published" or sum(times) < SECONDS):
        times.append(clock(step))
    peak = memory("VmHWM")
    row |= {"median_s": statistics.median(times), "seconds": times}
    row |= {"added_mb": peak - before, "peak_mb": peak}
    if name == "library":
        row["shares"] = shares(step, model)
    return row


def report(result: dict[str, Any]) -> Section:
    """Seconds and memory beside the published model's, and what takes ours their time."""
    rows = result["rows"]
    found = [
        own
        for cells in sorted({row["cells"] for row in rows})
        for own in together([row for row in rows if row["cells"] == cells])
    ]
    columns = ("cells", "model", "mode", "pairs", "seconds", "added MB", "peak MB")
    columns += ("times faster than published (each)", "times less memory added")
    lines = []
    for row in found:
        times = less = "-"
        if "times_faster" in row:
            each = ", ".join(brief(times) for times in row["each_times_faster"])
            times, less = f"{brief(row['times_faster'])} ({each})", brief(row["times_smaller"])
        numbers = (brief(row[key]) for key in ("pairs", "median_s", "added_mb", "peak_mb"))
        lines.append((brief(row["cells"]), row["model"], row["mode"], *numbers, times, less))
    parts = []
    for row in rows:
        if "shares" in row:
            shares = sorted(row["shares"].items(), key=lambda item: -item[1])
            text = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares)
            parts.append((brief(row["cells"]), row["mode"], text))
    tables = [
        Table("Medians over processes", columns, lines),
        Table("Ours, library: shares of a process' time", ("cells", "mode", "shares"), parts),
    ]
    points = {
        f"{model}, {mode}": line(
            [
                (row["cells"], row["median_s"])
                for row in found
                if (row["model"], row["mode"]) == (model, mode)
            ]
        )
        for model, mode in itertools.product(NAMES.values(), MODES)
    }
    headlines = [
        Headline(
            f"encoder, {brief(row['cells'])} cells, {row['model'].removeprefix('ours, ')}, "
            + row["mode"],
            f"{brief(row['median_s'])} s, {brief(row['added_mb'])} MB",
            beside({"published code": row["times_faster"]} if "times_faster" in row else {}),
        )
        for row in found
        if row["model"] != "published"
    ]
    panel = Panel("Encoder, one sub-slice", "cells", "seconds", points)
    return Section(tables, [panel], headlines)


def together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of one size, a row a model and mode: medians over its processes; ratios of those in turn."""
    found = []
    for model, mode in dict.fromkeys((row["model"], row["mode"]) for row in rows):
        own = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
        dense = [row for row in rows if (row["model"], row["mode"]) == ("published", mode)]
        of = {"model": model, "mode": mode, "pairs": own[0]["pairs"], "cells": own[0]["cells"]}
        for name in ("median_s", "added_mb", "peak_mb"):
            of[name] = statistics.median(row[name] for row in own)
        if dense and model != "published":
            times = [b["median_s"] / a["median_s"] for a, b in zip(own, dense, strict=True)]
            of |= {"times_faster": statistics.median(times), "each_times_faster": times}
            less = [b["added_mb"] / max(a["added_mb"], 1) for a, b in zip(own, dense, strict=True)]
            of["times_smaller"] = statistics.median(less)
        found.append(of)
    return found
