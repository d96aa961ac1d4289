"""A corpus: how long it takes to build and to load, and in how much memory.

A toy slice of a million cells, and all files of ``--data``, are built, loaded for some epochs as
training does (masks drawn, batches made), and trained on. Each is a process of its own, with one
thread, and memory is its largest resident set, libraries and all, in GB (2^30 bytes). Making the
toy slice is not counted. ``targets`` are what was asked.

Loading and training are compared batch by batch, in turns, since other work on the machine makes
``seconds`` longer; ``load`` is its load average at the start.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given, needed
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Panel, Section, Table, brief, line

TARGETS = {"build_peak_gb": 3.0, "load_peak_gb": 1.5, "loader_to_training": 3.0}
SOURCES = ("toy", "files")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cells: int = 1_000_000  # of the toy slice
    genes: int = 300
    node_budget: int = 3000
    workers: tuple[int, ...] = (0, 1)
    epochs: int = 3
    steps: int = 24


QUICK = Sizes(400, 40, 3000, (0,), 1, 1)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Corpora built, loaded and trained on.

    Raises:
        LeftOut: A package that corpora need is not installed.
    """
    _corpora = needed("_corpora")
    sizes = QUICK if given.quick else Sizes()
    result: dict[str, Any] = {"settings": {**asdict(sizes), "threads": 1}, "targets": TARGETS}
    result["without"] = {} if given.data else {"corpus of files": "no --data"}
    with tempfile.TemporaryDirectory() as work:
        file, corpus = Path(work) / "toy.h5ad", Path(work) / "corpus"
        _corpora.toy(sizes.cells, sizes.genes, file)
        sources = {"toy": (file, "none")}
        if given.data:
            files = given.data.glob("*.h5ad")
            smallest = min(files, key=lambda one: one.stat().st_size, default=given.data)
            sources["files"] = (smallest if given.quick else given.data, "auto")
        for name, (source, organism) in sources.items():
            folder = corpus / name
            row = {"built": _task(watch, _corpora.built, [str(source)], organism, folder)}
            row["loaded"] = [
                _task(watch, _corpora.loaded, folder, sizes.node_budget, workers, sizes.epochs)
                for workers in sizes.workers
            ]
            result[name] = row
        result["training"] = _task(watch, _corpora.trained, folder, sizes.node_budget, sizes.steps)
    return result


def _task(watch: Watch, function: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What it gives in a process and a thread of its own."""
    load = round(os.getloadavg()[0], 1)
    alone = partial(fresh, function, *given, threads=1)
    return {"load": load, **watch(f"corpus: {function.__name__}", alone)}


def report(result: dict[str, Any]) -> Section:
    """What is built, loaded and trained on, beside what was asked."""
    of = {name: result[name] for name in SOURCES if name in result}
    sizes = ("slices", "cells", "pieces", "genes")
    costs = ("seconds", "cpu_seconds", "peak_gb", "load")
    built = [
        (
            name,
            *(brief(row["built"][key]) for key in sizes),
            brief(row["built"]["bytes"] / 1e6),
            *(brief(row["built"][key]) for key in costs),
        )
        for name, row in of.items()
    ]
    loads = ("cells_per_second", "ms_a_piece", "cpu_ms_a_piece")
    loaded = [
        (name, str(one["workers"]), *(_range(one[key]) for key in loads), brief(one["peak_gb"]))
        for name, row in of.items()
        for one in row["loaded"]
    ]
    training = result["training"]
    trained = (
        brief(training["steps"]),
        brief(training["training_cells_per_second"]),
        _range(training["training_ms_a_step"]),
        brief(training["loader_cells_per_second"]),
        brief(training["loader_to_training"]),
        brief(training["peak_gb"]),
    )
    asked = {name: f"(asked: {target:g})" for name, target in result["targets"].items()}
    peak = f"peak GB {asked['build_peak_gb']}"
    columns = ("corpus", *sizes, "MB", "seconds", "CPU seconds", peak, "load before")
    tables = [Table("Built", columns, built)]
    peak = f"peak GB {asked['load_peak_gb']}"
    columns = ("corpus", "workers", "cells a second", "ms a sub-slice", "CPU ms a sub-slice", peak)
    tables.append(Table("Loaded: medians of epochs (range)", columns, loaded))
    times = f"times as fast loaded as trained on {asked['loader_to_training']}"
    columns = ("steps", "cells a second", "ms a step (range)", "cells a second, loading", times)
    tables.append(Table("Trained on, one batch after the other", (*columns, "peak GB"), [trained]))
    points = {"built": [(row["built"]["cells"], row["built"]["seconds"]) for row in of.values()]}
    for row in of.values():
        for one in row["loaded"]:
            seconds = one["cells"] / one["cells_per_second"]["median"]
            name = f"an epoch loaded, workers: {one['workers']}"
            points.setdefault(name, []).append((one["cells"], seconds))
    points = {name: line(own) for name, own in points.items()}
    headlines = [
        Headline(
            f"corpus built, {brief(row['built']['cells'])} cells, one core",
            f"{brief(row['built']['cpu_seconds'])} s, {brief(row['built']['peak_gb'])} GB",
        )
        for row in of.values()
    ]
    panel = Panel("Corpus, two sources", "cells", "seconds", points, joined=False)
    return Section(tables, [panel], headlines)


def _range(values: dict[str, Any]) -> str:
    low, high = values["range"]
    return f"{brief(values['median'])} ({brief(low)} to {brief(high)})"
