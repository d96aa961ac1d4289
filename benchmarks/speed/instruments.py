"""Time and memory of ``stofm-geo embed`` on tissue of the size of instruments' files.

The command as users type it, with domains and pictures, on made-up tissue with the shape of
Visium HD at 8 micrometres, Xenium 5K, Stereo-seq at bin 50, and of 100 slices in one command
(:mod:`benchmarks.speed._instruments`); each at a quarter of its size, too, which shows whether time
grows in proportion to the cells. Seconds are those of the command, from its start to its end;
memory is the largest resident set of its process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed._instruments import INSTRUMENTS, Instrument, make
from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Failed, Given
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Panel, Section, Table, brief, line

SHARES = (0.25, 1.0)
_QUICK = Instrument(600, 60, 30)
ASKED = "15 min, 8 GiB"


def sized(instrument: Instrument, share: float) -> Instrument:
    """Return a share of an instrument: of the slices where there are several, else of the cells."""
    if instrument.slices > 1:
        return replace(instrument, slices=max(1, round(share * instrument.slices)))
    return replace(instrument, cells=round(share * instrument.cells))


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Run the command on each size."""
    instruments = {"quick": _QUICK} if given.quick else INSTRUMENTS
    rows = []
    for name, whole in instruments.items():
        for share in SHARES:
            instrument = sized(whole, share)
            case = f"instruments: {name}, {instrument.slices} x {instrument.cells}"
            with tempfile.TemporaryDirectory() as folder:
                files = fresh(make, instrument, Path(folder))  # whose memory is not this process's
                load = round(os.getloadavg()[0], 1)
                found = watch(case, run, files, Path(folder), given.quick)
                row = {"name": name, "share": share, "load": load, **found}
            rows.append(row)
    return {"without": {}, "rows": rows}


def run(files: list[Path], folder: Path, quick: bool) -> dict[str, Any]:
    """Run the command on files; its seconds and memory.

    Args:
        files: Slices.
        folder: Folder of the output.
        quick: A few steps of training only.

    Raises:
        Failed: The command failed.
    """
    output = folder / "out.h5ad" if len(files) == 1 else folder / "out"
    words = ["embed", *map(str, files), "-o", str(output), "--plot", str(folder / "p.png")]
    words += ["--label-key", "region", "--n-domains", "8", "--json"]
    words += ["--max-steps", "4"] if quick else []
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, "-m", "stofm_geo", *words], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read().decode()
    if process.returncode:
        raise Failed(f"exit status {process.returncode}: {text[-500:]}")
    found = json.loads(text)
    return {
        "slices": len(files),
        "cells": found["cells"],
        "fitted_cells": found["training"]["cells"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 2**20, 2),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "stages": found["seconds"],
        "mean_ari": round(sum(one["ari"] for one in found["files"].values()) / len(files), 3),
    }


def growth(rows: list[dict[str, Any]], name: str) -> float:
    """Return the time of the whole over that of the quarter in proportion to the cells."""
    part, whole = (next(r for r in rows if r["name"] == name and r["share"] == s) for s in SHARES)
    return (whole["seconds"] / whole["cells"]) / (part["seconds"] / part["cells"])


def report(result: dict[str, Any]) -> Section:
    """Seconds and memory of each size, and how time grows."""
    rows = result["rows"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = []
    for row in rows:
        stages = (brief(row["stages"][stage]) for stage in ("fit", "embed", "domains"))
        ratio = brief(growth(rows, row["name"])) if row["share"] == 1 else ""
        more = (brief(row["cpu_seconds"]), brief(row["peak_gb"]), ratio, str(row["mean_ari"]))
        total = brief(row["seconds"])
        known = (row["name"], str(row["slices"]), brief(row["cells"]))
        lines.append((*known, *stages, total, *more, str(row["threads"]), str(row["load"])))
    columns = (
        *("files like those of", "slices", "cells", "fit", "embed", "domains", "all, s"),
        *("CPU, s", f"peak GiB (asked: {ASKED})", "to linear (asked: 1.3)", "ARI"),
        *("threads", "load before"),
    )
    points = {
        name: line([(row["cells"], row["seconds"]) for row in rows if row["name"] == name])
        for name in names
    }
    headlines = [
        Headline(
            f"stofm-geo embed, {row['name']}: {row['slices']} slices, {brief(row['cells'])} cells",
            f"{brief(row['seconds'])} s, {brief(row['peak_gb'])} GiB",
        )
        for row in rows
        if row["share"] == 1
    ]
    table = Table("The command on files of the size of instruments'", columns, lines)
    return Section([table], [Panel("Files of instruments", "cells", "seconds", points)], headlines)
