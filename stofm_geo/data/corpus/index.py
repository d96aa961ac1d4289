"""``corpus.json``, the index of a corpus: reading, verification and summary."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from stofm_geo._files import read_json
from stofm_geo._hash import check_hash
from stofm_geo.data.corpus.store import checksum

FORMAT = 3
_CORPUS_TYPES = {"settings": dict, "technologies": list, "failed": int, "genes": list}
_SLICE_TYPES = {
    **dict.fromkeys(("folder", "path", "slice", "technology", "organism", "sha256"), str),
    **dict.fromkeys(("cells", "genes", "bytes"), int),
    "nodes": list,
}
# Missing in corpora of older versions.
HASH, HEAD = "index_sha256", "head_sha256"
INDEX, FAILED, SLICES = "corpus.json", "failed.csv", "slices"


def read_index(folder: str | Path) -> dict[str, Any]:
    """Read ``corpus.json``.

    Returns:
        A dictionary with ``format``; ``settings`` of the sub-slices; sorted names of all ``genes``
        and ``technologies``; ``failed``, the number of skipped slices; and ``slices``, sorted by
        folder, with ``folder``, ``path``, ``slice``, ``technology``, ``organism``, ``cells``,
        ``genes``, ``nodes`` (of each sub-slice), ``bytes``, ``sha256``, ``head_sha256`` and
        ``warnings``.

    Raises:
        FileNotFoundError: There is no corpus, or its build is not finished.
        ValueError: The file is damaged, or of another version.
    """
    file = Path(folder) / INDEX
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: has no {INDEX}; name the folder of a corpus; if its build was "
            "interrupted, run it again, and it resumes"
        )
    index = read_json(file)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{file}: is not of format {FORMAT}; build the corpus again")
    types = {**_CORPUS_TYPES, "slices": list}
    check_hash(index, HASH, ("format", *types), file)
    invalid = _first_invalid(index, types)
    for entry in index["slices"] if not invalid else ():
        invalid = invalid or (
            _first_invalid(entry, _SLICE_TYPES) if isinstance(entry, dict) else "slices"
        )
    nodes = [] if invalid else [count for entry in index["slices"] for count in entry["nodes"]]
    if not all(type(count) is int and count > 0 for count in nodes):
        invalid = "nodes"
    if invalid is not None:
        raise ValueError(f"{file}: is damaged ({invalid!r} is missing or invalid); build it again")
    return index


def _first_invalid(values: dict[str, Any], types: dict[str, type]) -> str | None:
    """Return the first name that is missing or has a value of another type."""
    return next(
        (name for name, type_ in types.items() if type(values.get(name)) is not type_), None
    )


def verify(folder: str | Path) -> list[str]:
    """Return a line of text for each slice with damaged or missing files.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_index`.
    """
    problems = []
    for entry in read_index(folder)["slices"]:
        path = Path(folder) / SLICES / entry["folder"]
        if not path.is_dir():
            problems.append(f"{path}: is missing; build the corpus again")
        elif checksum(path) != (entry["sha256"], entry["bytes"]):
            problems.append(
                f"{path}: is damaged (SHA-256 differs); remove it, and build the corpus again"
            )
    return problems


def checksum_of(index: dict[str, Any]) -> str:
    """Return the SHA-256 of the checksums of all slices."""
    lines = "\n".join(f"{entry['folder']} {entry['sha256']}" for entry in index["slices"])
    return hashlib.sha256(lines.encode()).hexdigest()


def summary(folder: str | Path) -> list[dict[str, Any]]:
    """Return the size of a corpus by technology and organism, and in total.

    Returns:
        Rows with ``technology``, ``organism``, ``slices``, ``cells``, ``subslices``, ``genes``
        (maximum over slices; in the last row, of all slices together) and ``bytes``.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_index`.
    """
    index = read_index(folder)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    total = _row("all", "")
    for entry in index["slices"]:
        key = entry["technology"] or "unknown", entry["organism"]
        for row in (rows.setdefault(key, _row(*key)), total):
            row["slices"] += 1
            row["cells"] += entry["cells"]
            row["subslices"] += len(entry["nodes"])
            row["genes"] = max(row["genes"], entry["genes"])
            row["bytes"] += entry["bytes"]
    total["genes"] = len(index["genes"])
    return [*(rows[key] for key in sorted(rows)), total]


def _row(technology: str, organism: str) -> dict[str, Any]:
    counts = dict.fromkeys(("slices", "cells", "subslices", "genes", "bytes"), 0)
    return {"technology": technology, "organism": organism, **counts}
