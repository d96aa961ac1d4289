"""A corpus of the size of the paper's, 88 million cells in 2 000 slices, opened and loaded.

One toy slice of 44 000 cells is built, and is every slice of the corpus, as hard links: what the
index, the sampler, the loader and a checkpoint do is that of 2 000 slices, but for the disk, since
the files of one slice stay in the memory of the system. Loading is compared with a corpus of few
slices, all of which stay open. Each step is a process of its own, with one thread.

Times and sizes of the whole corpus are those of one slice, or of some batches, multiplied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given, needed
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Section, Table, brief

HOUR = 3600


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cells: int = 44_000  # of a slice
    genes: int = 1_000
    slices: tuple[int, ...] = (10, 2_000)
    node_budget: int = 3000
    batches: int = 200
    steps: int = 24


QUICK = Sizes(200, 40, (2, 4), 300, 1, 1)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Corpora of few and of many slices.

    Raises:
        LeftOut: A package that corpora need is not installed.
    """
    _corpora, _large_corpora = needed("_corpora"), needed("_large_corpora")
    sizes = QUICK if given.quick else Sizes()
    result: dict[str, Any] = {"settings": {**asdict(sizes), "threads": 1}, "rows": []}
    with tempfile.TemporaryDirectory() as work:
        file, one, checkpoint = (Path(work) / name for name in ("toy.h5ad", "one", "checkpoint"))
        _corpora.toy(sizes.cells, sizes.genes, file)
        result["built"] = _alone(watch, _corpora.built, [str(file)], "none", one)
        budget = sizes.node_budget
        for slices in sizes.slices:
            folder = Path(work) / str(slices)
            _large_corpora.repeat(one, folder, slices)
            row = {"opened": _alone(watch, _large_corpora.opened, folder, budget)}
            row["loaded"] = _alone(watch, _large_corpora.loaded, folder, budget, sizes.batches)
            row["started"] = _alone(watch, _large_corpora.started, folder, budget, checkpoint)
            result["rows"].append(row)
        result["training"] = _alone(watch, _corpora.trained, folder, budget, sizes.steps)
    return result


def _alone(watch: Watch, function: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What it gives in a process and a thread of its own."""
    return watch(f"large corpus: {function.__name__}", partial(fresh, function, *given, threads=1))


def report(result: dict[str, Any]) -> Section:
    """Few and many slices side by side, and the whole corpus."""
    rows = result["rows"]
    found = [_values(row) for row in rows]
    many = [brief(row["opened"]["slices"]) for row in rows]
    lines = [(what, *(values[what] for values in found)) for what in found[0]]
    title = "Opened, loaded and trained on, in one process"
    tables = [Table(title, ("", *(f"{count} slices" for count in many)), lines)]
    built, last, training = result["built"], rows[-1], result["training"]
    slices = last["opened"]["slices"]
    cells = slices * built["cells"]
    rate = last["loaded"]["cells_per_second"]
    trained = cells / training["training_cells_per_second"] / HOUR
    whole = [
        ("GB on disk", brief(slices * built["bytes"] / 1e9)),
        ("hours to build, one process", brief(slices * built["cpu_seconds"] / HOUR)),
        ("hours to load once, one process", brief(cells / rate / HOUR)),
        ("hours to train on once, one process", brief(trained)),
    ]
    tables.append(Table(f"All {brief(cells)} cells", ("", ""), whole))
    what = f"corpus of {brief(slices)} slices, a batch loaded"
    few = rows[0]["loaded"]["ms_a_batch"]
    others = f"of {many[0]} slices {brief(few)} ms"
    headline = Headline(what, f"{brief(last['loaded']['ms_a_batch'])} ms", others)
    return Section(tables, [], [headline])


def _values(row: dict[str, Any]) -> dict[str, str]:
    opened, loaded, started = row["opened"], row["loaded"], row["started"]
    return {
        "sub-slices": brief(opened["subslices"]),
        "index, MB": brief(opened["index_mb"]),
        "index read, s": brief(opened["open_s"]),
        "batches of an epoch drawn, s": brief(opened["batches_s"]),
        "first batch after resuming in the middle, s": brief(opened["resume_s"]),
        "a batch loaded, ms": brief(loaded["ms_a_batch"]),
        "cells loaded a second": brief(round(loaded["cells_per_second"])),
        "open files": brief(loaded["open_files"]) if loaded["open_files"] else "-",
        "peak of loading, GB": brief(loaded["peak_gb"]),
        "first step of training done, s": brief(started["first_step_s"]),
        "checkpoint, MB": brief(started["checkpoint_mb"]),
        "checkpoint written, s": brief(started["save_s"]),
        "training resumed from it, s": brief(started["resume_s"]),
        "peak of training, GB": brief(started["peak_gb"]),
    }
