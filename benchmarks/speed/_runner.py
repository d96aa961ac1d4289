"""Measurements are made one after the other, each in a process of its own and a file of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed._machine import check_tree
from benchmarks.speed._measurements import NAMES, Failed, Given, LeftOut, measure
from benchmarks.speed._process import fresh
from stofm_geo.benchmark.records import environment, write_result


def run(names: Sequence[str], folder: Path, given: Given, *, limit: float, again: bool) -> None:
    """Make measurements, and write ``NAME.json`` of each into ``folder``.

    A file holds :func:`stofm_geo.benchmark.records.environment`, whether sizes were ``quick``, the
    ``seconds`` that the measurement took, and its result, or ``left_out`` or ``failed`` with the
    reason. What is there with a result is not measured again.

    Args:
        names: Some of :data:`NAMES`.
        folder: Made where it is not there.
        given: What measurements are given.
        limit: Seconds after which one is ended, and has failed.
        again: Measure what is there, too.

    Raises:
        ValueError: Unknown names; results of other sizes are there, which would be mixed; or the
            checkout has changes that are not committed (``quick`` sizes are measured all the same).
        OSError: ``folder`` cannot be written.
        Failed: Some failed; the others were made.
    """
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ValueError(
            f"no measurement is named {', '.join(unknown)}; there are {', '.join(NAMES)}"
        )
    if not given.quick:
        check_tree()
    there = {name: found for name in NAMES if measured(found := _read(folder, name))}
    for name, found in there.items():
        if found["quick"] != given.quick:
            kind = "quick" if found["quick"] else "full"
            raise ValueError(f"{folder}: {name}.json is of {kind} sizes; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in dict.fromkeys(names):
        if name in there and not again:
            print(f"{name}: is there already (--again measures it again)")
            continue
        made = _made(name, given, limit)
        result = {"environment": environment(), "quick": given.quick, **made}
        write_result(result, _file(folder, name))
        if "failed" in result:
            failed.append(name)
        print(f"{name}: {state(result)} ({result['seconds']:.0f} s)")
        for part, reason in result.get("without", {}).items():
            print(f"{name}: left out {part}: {reason}")
    if failed:
        raise Failed(f"failed: {', '.join(failed)}; the reasons are in {folder}")


def measured(found: dict[str, Any]) -> bool:
    """Whether a file has a result."""
    return bool(found) and not found.keys() & {"failed", "left_out"}


def state(found: dict[str, Any]) -> str:
    """Whether it was measured, and why not, in words."""
    for kind in ("failed", "left_out"):
        if kind in found:
            return f"{kind.replace('_', ' ')}: {found[kind]}"
    return "measured, quick sizes" if found["quick"] else "measured"


def _made(name: str, given: Given, limit: float) -> dict[str, Any]:
    start = time.monotonic()
    try:
        result = fresh(measure, name, given, limit=limit)
    except LeftOut as missing:
        result = {"left_out": str(missing)}
    except Failed as error:
        result = {"failed": str(error)}
    return {"seconds": round(time.monotonic() - start, 1), **result}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _read(folder: Path, name: str) -> dict[str, Any]:
    file = _file(folder, name)
    return json.loads(file.read_text()) if file.exists() else {}
