"""``corpus.json``: what is in a corpus; whether it still is, and in a few numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from stofm_geo._files import read_json
from stofm_geo._hash import check_hash
from stofm_geo.data.corpus.store import checksum

FORMAT = 2
_OF_ALL = {"settings": dict, "technologies": list, "failed": int, "genes": list}
_OF_SLICE = {
    **dict.fromkeys(("folder", "path", "slice", "technology", "organism", "sha256"), str),
    **dict.fromkeys(("cells", "genes", "bytes"), int),
    "nodes": list,
}
# Corpora that were built before there were these have none.
HASH, HEAD = "index_sha256", "head_sha256"
INDEX, FAILED, SLICES = "corpus.json", "failed.csv", "slices"


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read ``corpus.json``.

    Returns:
        ``format``; ``settings`` of the sub-slices; ``genes``, names of all, sorted;
        ``technologies``, sorted; ``failed``, how many slices were put aside; ``slices``, by name of
        their folder: ``folder``, ``path``, ``slice``, ``technology``, ``organism``, ``cells``,
        ``genes``, ``nodes`` (of each sub-slice), ``bytes``, ``sha256``, ``head_sha256``,
        ``warnings``.

    Raises:
        FileNotFoundError: There is no corpus, or it is not finished.
        ValueError: The file is damaged, or of another version.
    """
    file = Path(folder) / INDEX
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: has no {INDEX}; name the folder of a corpus, or, if its build was stopped, "
            "start it again: it goes on"
        )
    index = read_json(file)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{file}: is not of format {FORMAT}; build the corpus anew")
    kinds = {**_OF_ALL, "slices": list}
    check_hash(index, HASH, ("format", *kinds), file)
    wrong = _misfit(index, kinds)
    for one in index["slices"] if not wrong else ():
        wrong = wrong or (_misfit(one, _OF_SLICE) if isinstance(one, dict) else "slices")
    nodes = [] if wrong else [count for one in index["slices"] for count in one["nodes"]]
    if not all(type(count) is int and count > 0 for count in nodes):
        wrong = "nodes"
    if wrong is not None:
        raise ValueError(f"{file}: is damaged ({wrong!r} is missing or unfit); build again")
    return index


def _misfit(values: dict[str, Any], kinds: dict[str, type]) -> str | None:
    """Return the first name that is missing or has a value of another type."""
    return next((name for name, kind in kinds.items() if type(values.get(name)) is not kind), None)


def verify(folder: str | Path) -> list[str]:
    """Return one line for each slice whose files are damaged; empty if all are as written.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_index`.
    """
    wrong = []
    for one in read_index(folder)["slices"]:
        path = Path(folder) / SLICES / one["folder"]
        if not path.is_dir():
            wrong.append(f"{path}: is not there; build again")
        elif checksum(path) != (one["sha256"], one["bytes"]):
            wrong.append(
                f"{path}: is not what was written (SHA-256 differs); remove it, and build again"
            )
    return wrong


def checksum_of(index: dict[str, Any]) -> str:
    """Return the SHA-256 of the checksums of all slices."""
    each = "\n".join(f"{one['folder']} {one['sha256']}" for one in index["slices"])
    return hashlib.sha256(each.encode()).hexdigest()


def summary(folder: str | Path) -> list[dict[str, Any]]:
    """Return the size of a corpus by technology and organism, and in total.

    Returns:
        Rows with ``technology``, ``organism``, ``slices``, ``cells``, ``subslices``,
        ``genes`` (most of a slice; in the last row, of all) and ``bytes``.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_index`.
    """
    index = read_index(folder)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    total = _row("all", "")
    for one in index["slices"]:
        key = one["technology"] or "not told", one["organism"]
        for row in (rows.setdefault(key, _row(*key)), total):
            row["slices"] += 1
            row["cells"] += one["cells"]
            row["subslices"] += len(one["nodes"])
            row["genes"] = max(row["genes"], one["genes"])
            row["bytes"] += one["bytes"]
    total["genes"] = len(index["genes"])
    return [*(rows[key] for key in sorted(rows)), total]


def _row(technology: str, organism: str) -> dict[str, Any]:
    counts = dict.fromkeys(("slices", "cells", "subslices", "genes", "bytes"), 0)
    return {"technology": technology, "organism": organism, **counts}
