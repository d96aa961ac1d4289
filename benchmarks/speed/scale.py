"""How time and memory grow with the number of cells, from a file to a file.

A toy tissue (one slice, 200 genes) of 1 000 to 1 000 000 cells goes through what ``stofm-geo
embed`` does, each size in a process of its own. A row tells seconds and peak memory (largest
resident set, GiB) of each stage: reading, fitting, embedding, finding domains, writing. Making the
toy tissue is not counted.

``load`` is the load average at the start. ``cpu_seconds`` are of all threads together.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Panel, Section, Table, brief, line
from stofm_geo import SToFM, tl
from stofm_geo.benchmark.memory import memory, reset_peak
from stofm_geo.data import read_slice_file, write_h5ad
from stofm_geo.datasets import toy_tissue


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cells: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    genes: int = 200
    max_steps: int = 200  # of fitting


QUICK = Sizes((300,), 60, 2)
STAGES = ("read", "fit", "embed", "domains", "write", "all")


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Seconds and memory of each stage, over cells."""
    sizes, rows = QUICK if given.quick else Sizes(), []
    for cells in sizes.cells:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "toy.h5ad"
            toy_tissue(cells, sizes.genes).write_h5ad(file)
            load = round(os.getloadavg()[0], 1)
            row = watch(f"scale: {cells} cells", fresh, work, file, sizes.max_steps)
            rows.append({"load": load, **row})
    return {"settings": asdict(sizes), "without": {}, "rows": rows}


def report(result: dict[str, Any]) -> Section:
    """Wall seconds of the stages and peak memory."""
    rows = result["rows"]
    lines = []
    for row in rows:
        seconds = (brief(row["stages"][name]["seconds"]) for name in STAGES)
        total = row["stages"]["all"]
        more = (brief(total["cpu_seconds"]), brief(total["peak_gb"]), str(row["domains"]))
        lines.append((brief(row["cells"]), *seconds, *more, str(row["threads"]), str(row["load"])))
    columns = ("cells", *STAGES, "CPU, all", "peak GiB", "domains", "threads", "load before")
    points = {
        name: line([(row["cells"], row["stages"][name]["seconds"]) for row in rows])
        for name in STAGES
    }
    table = Table("Seconds of each stage, and peak memory", columns, lines)
    headlines = [
        Headline(
            f"file to file: fit, embed, domains; {brief(row['cells'])} cells",
            f"{brief(total['seconds'])} s, {brief(total['peak_gb'])} GiB",
        )
        for row in rows
        for total in [row["stages"]["all"]]
    ]
    return Section([table], [Panel("From file to file", "cells", "seconds", points)], headlines)


@contextmanager
def measured(stages: dict[str, Any], name: str) -> Iterator[None]:
    """Note seconds and peak memory of what runs inside."""
    reset_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    stages[name] = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
        "peak_gb": round(memory("VmHWM") / 1024, 2),
    }


def work(file: Path, max_steps: int) -> dict[str, Any]:
    """What ``stofm-geo embed FILE -o OUTPUT`` does, stage by stage."""
    stages: dict[str, Any] = {}
    with measured(stages, "read"):
        adata = read_slice_file(file)
    with measured(stages, "fit"):
        model = SToFM().fit(adata, max_steps=max_steps, progress=False)
    with measured(stages, "embed"):
        model.embed(adata)
    with measured(stages, "domains"):
        tl.domains(adata)
    with measured(stages, "write"):
        write_h5ad(adata, file.with_name("out.h5ad"))
    total = {
        name: round(sum(stage[name] for stage in stages.values()), 2)
        for name in ("seconds", "cpu_seconds")
    }
    total["peak_gb"] = max(stage["peak_gb"] for stage in stages.values())
    return {
        "cells": adata.n_obs,
        "threads": torch.get_num_threads(),
        "stages": {**stages, "all": total},
        "seconds_per_cell": {
            name: float(f"{stage['seconds'] / adata.n_obs:.3g}")
            for name, stage in [*stages.items(), ("all", total)]
        },
        "domains": len(adata.obs["stofm_domain"].cat.categories),
    }
