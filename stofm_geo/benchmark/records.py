"""Results as JSON lines, with all that is needed to run them again."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from stofm_geo._files import atomic_path

FILE = "cells.jsonl"
KEYS = ("task", "dataset", "split", "model", "seed")
PACKAGES = (
    "torch",
    "torch-geometric",
    "e3nn",
    "anndata",
    "igraph",
    "numba",
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
)


@cache
def environment() -> dict[str, Any]:
    """Return date, commit, machine and versions, as of the first call."""
    git = (
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    )
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        commit = ""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # an optional one
        return None


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def key_of(row: dict[str, Any]) -> tuple:
    """Return the key that identifies a cell of the table."""
    return tuple(row[key] for key in KEYS)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of all ``.jsonl`` files of a folder, the last row of each cell.

    Cells are in the order of their first rows. A line truncated by a kill is ignored.

    Raises:
        FileNotFoundError: The folder does not exist or has no results.
        ValueError: A line is not a result.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{folder}: has no results (*.jsonl); create some with run")
    rows: dict[tuple, dict[str, Any]] = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break
            try:
                row = json.loads(line)
                rows[key_of(row)] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number}: is not a result of the suite") from error
    return list(rows.values())


def append(row: dict[str, Any], file: Path) -> None:
    """Append a row; after a kill its line is either complete or ignored by :func:`read_rows`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row) + "\n"
    if file.exists() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(file, text.rfind(b"\n") + 1)
    with file.open("a") as out:
        out.write(line)
        out.flush()
        os.fsync(out.fileno())
