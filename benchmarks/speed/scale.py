"""How time and memory grow with the number of cells, from a file to a file.

``python -m benchmarks.speed.scale -o benchmarks/results/scale.json``: a toy tissue (one slice, 200
genes) of 1 000 to 1 000 000 cells goes through what ``stofm-geo embed`` does, each size in a
process of its own. A row tells seconds and peak memory (largest resident set, GiB) of each stage:
reading, fitting, embedding, finding domains, writing. Making the toy tissue is not counted.
Resumable: a row is written as soon as it is there, and rows of the same commit are kept.

Other work on the machine makes ``seconds`` longer; ``load`` is its load average at the start.
``cpu_seconds``, of all threads together, suffer less from it, but threads that wait for each other
on too few cores burn them, too: on a busy machine, measure with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._record import environment, write
from benchmarks.speed._memory import forget_peak, memory

SIZES = (1_000, 10_000, 100_000, 1_000_000)
GENES = 200


@contextmanager
def measured(stages: dict[str, Any], name: str) -> Iterator[None]:
    """Note seconds and peak memory of what runs inside."""
    forget_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    yield
    stages[name] = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
        "peak_gb": round(memory("VmHWM") / 1024, 2),
    }
    print(name, stages[name], file=sys.stderr, flush=True)


def work(file: Path, output: Path) -> dict[str, Any]:
    """What ``stofm-geo embed FILE -o OUTPUT`` does, stage by stage."""
    import torch

    from stofm_geo import SToFM, tl
    from stofm_geo.data import read_slice_file, write_h5ad

    stages: dict[str, Any] = {}
    with measured(stages, "read"):
        adata = read_slice_file(file)
    with measured(stages, "fit"):
        model = SToFM().fit(adata, progress=False)
    with measured(stages, "embed"):
        model.embed(adata)
    with measured(stages, "domains"):
        tl.domains(adata)
    with measured(stages, "write"):
        write_h5ad(adata, output)
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


def fresh(cells: int) -> dict[str, Any]:
    """The row of one size, worked out by a new process."""
    from stofm_geo.datasets import toy_tissue

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "toy.h5ad"
        toy_tissue(cells, GENES).write_h5ad(file)
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "benchmarks.speed.scale", "--work", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"load": round(load, 1), **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # the process of one size
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(work(options.work, options.work.with_name("out.h5ad"))))
        return
    if options.output is None:
        parser.error("-o is missing")
    now = environment()
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    rows = [row for row in rows if row["commit"] == now["commit"]]
    for cells in options.cells:
        if cells in [row["cells"] for row in rows]:
            continue
        row = {"commit": now["commit"], **fresh(cells)}
        print(row, flush=True)
        rows.append(row)
        rows.sort(key=lambda row: row["cells"])
        write({"environment": now, "rows": rows}, options.output)


if __name__ == "__main__":
    main()
