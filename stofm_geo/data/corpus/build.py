"""A corpus from files of slices: each slice by itself, whole or not at all, and once."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from stofm_geo._files import (
    atomic_path,
    check_writable,
    explain_full_disk,
    full_disk_errno,
    read_json,
)
from stofm_geo._hash import with_hash
from stofm_geo._keys import Keys, NodeType
from stofm_geo._linalg import BLOCK
from stofm_geo._replace import clear_leftovers, replace_path, work_folder
from stofm_geo._validation import check_positive, error_context
from stofm_geo._version import __version__
from stofm_geo.data.cluster import each_on_cluster, part_of
from stofm_geo.data.corpus import workers as pool
from stofm_geo.data.corpus.codec import SliceHeader, encode
from stofm_geo.data.corpus.index import FAILED, FORMAT, HASH, HEAD, INDEX, SLICES
from stofm_geo.data.corpus.locks import locked
from stofm_geo.data.corpus.sources import CorpusSlice, Slice, Source, read_slice, slices_of
from stofm_geo.data.corpus.store import checksum, head_of, read_genes, write_slice
from stofm_geo.data.panel_slice import PanelSlice


@dataclass(frozen=True)
class _Task:
    """A slice to be made, and what its files depend on."""

    which: Slice
    folder: Path  # of all slices
    settings: dict[str, int]
    spatial_key: str
    stamp: tuple[int, int]  # bytes of the source, and when they were written

    @property
    def made_of(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **asdict(self.which),
            "settings": self.settings,
            "spatial_key": self.spatial_key,
            "stamp": list(self.stamp),
        }

    @property
    def done(self) -> Path:
        """A file that is written when the slice is, about it."""
        return self.folder / f"{self.which.folder}.json"


def build(
    sources: Sequence[Source],
    folder: str | Path,
    *,
    k: int = 12,
    max_macro_nodes: int = 16,
    cells_per_subslice: int = 1000,
    n_components: int = 50,
    spatial_key: str = Keys.SPATIAL,
    num_workers: int = 1,
    scheduler: str | None = None,
    part: str | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, str]]:
    """Write the sub-slices of all slices of these sources.

    A slice that is there already, of the same source (name, bytes, time of change) and settings,
    is not made again: a build that was stopped, however, goes on where it was. The same sources
    give the same bytes. A slice that cannot be made is put aside, told in ``failed.csv``, and the
    rest goes on; so is one that holds the same cells as another. What is in the folder of other
    sources stays there, but is not of the corpus.

    Args:
        sources: Of :func:`~stofm_geo.data.corpus.find_sources`.
        folder: Where the corpus goes.
        k: Nearest neighbours a cell is joined to (default 12).
        max_macro_nodes: Most virtual cells of a slice (default 16).
        cells_per_subslice: Most core cells of a sub-slice (default 1000).
        n_components: Principal components of a slice, its targets (default 50).
        spatial_key: Key in ``obsm`` of the positions, any unit (default ``"spatial"``).
        num_workers: Processes, each with one thread and one slice at a time (default 1: this one).
        scheduler: Address of a dask.distributed scheduler, whose workers make the slices in place
            of ``num_workers``; they must see the same files. A slice whose worker dies is made by
            another. ``None``: this machine.
        part: ``"i/n"``: make every ``n``-th slice from the ``i``-th on, for the ``i``-th of ``n``
            jobs at once, and no index; a build without it then makes what is missing and the
            index. ``None``: all.
        on_progress: Is called with a line for each slice that is done.

    Returns:
        Slices that were put aside, and why; sorted.

    Warns:
        UserWarning: What is doubtful about a slice, when it is made.

    Raises:
        OSError: The folder cannot be written.
        RuntimeError: Another build is writing there.
        TypeError, ValueError: Settings that do not fit, or no slice could be made.
        ImportError: A scheduler without dask.distributed.
    """
    settings = {
        "k": k,
        "max_macro_nodes": max_macro_nodes,
        "cells_per_subslice": cells_per_subslice,
        "n_components": n_components,
    }
    for name, value in {**settings, "num_workers": num_workers}.items():
        check_positive(name, value, whole=True)
    if part is not None:
        part_of((), part)
    folder = Path(folder)
    check_writable(folder / INDEX, make=True)
    (folder / SLICES).mkdir(parents=True, exist_ok=True)
    with locked(folder, part), explain_full_disk(folder):
        each = partial(pool.each, num_workers=num_workers)
        if scheduler is not None:
            each = partial(each_on_cluster, scheduler=scheduler)
        return _build(sources, folder, settings, spatial_key, each, part, on_progress)


def _build(
    sources: Sequence[Source],
    folder: Path,
    settings: dict[str, int],
    spatial_key: str,
    each: Callable[..., Iterator[tuple[_Task, Any]]],
    part: str | None,
    on_progress: Callable[[str], None],
) -> list[tuple[str, str]]:
    if part is None:
        clear_leftovers(folder / SLICES)  # of a build that was killed
    tasks: dict[str, _Task] = {}
    failed: dict[str, str] = {}
    for source in sources:
        try:
            stamp = _stamp(Path(source.path))
            for which in slices_of(source):
                task = _Task(which, folder / SLICES, settings, spatial_key, stamp)
                tasks.setdefault(which.folder, task)
        except (KeyError, OSError, TypeError, ValueError) as error:
            failed[source.path] = _reason(error).removeprefix(f"{source.path}: ")
    found = {name: _found(task) for name, task in tasks.items()}
    names = sorted(tasks) if part is None else part_of(sorted(tasks), part)
    open_ = [tasks[name] for name in names if found[name] is None]
    if any((task.folder / task.which.folder).is_dir() for task in open_):
        (folder / INDEX).unlink(missing_ok=True)  # what it says of them holds no longer
    if len(open_) < len(names):
        on_progress(f"{len(names) - len(open_)} of {len(names)} slices are there already")
    for i, (task, result) in enumerate(each(_make, open_), start=1):
        result = pool.DIED if result is None else result
        label = task.which.label
        if isinstance(result, str):
            failed[label] = result.removeprefix(f"{label}: ")
            on_progress(f"{i}/{len(open_)} {label}: put aside")
            continue
        found[task.which.folder] = result
        on_progress(
            f"{i}/{len(open_)} {label}: {result['cells']} cells, {len(result['nodes'])} sub-slices"
        )
        for warning in result["warnings"]:
            warnings.warn(warning, stacklevel=3)
    if part is not None:
        return sorted(failed.items())
    slices: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for name, one in sorted(found.items()):
        if one is None:
            continue
        content = one.pop("content")
        if content in first:
            failed[tasks[name].which.label] = f"has the same cells as {first[content]}"
        else:
            first[content] = tasks[name].which.label
            slices.append(one)
    with atomic_path(folder / FAILED) as file, file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("slice", "reason"), *sorted(failed.items())])
    if not slices:
        raise ValueError(f"{folder}: no slice could be made; {FAILED} there tells why")
    genes = set().union(*(read_genes(folder / SLICES / one["folder"]) for one in slices))
    index = {
        "format": FORMAT,
        "settings": settings,
        "technologies": sorted({one["technology"] for one in slices} - {""}),
        "failed": len(failed),
        "slices": slices,
        "genes": sorted(genes),
    }
    with atomic_path(folder / INDEX) as file:
        file.write_text(json.dumps(with_hash(index, HASH), indent=1))
    return sorted(failed.items())


def _stamp(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def _found(task: _Task) -> dict[str, Any] | None:
    """Return the record of a slice that is built already, else ``None``."""
    if not (task.folder / task.which.folder).is_dir():
        return None
    try:
        known = read_json(task.done)
        return known["slice"] if known["made_of"] == task.made_of else None
    except (KeyError, TypeError, ValueError):
        return None


def _make(task: _Task) -> dict[str, Any] | str:
    """Write a slice; what is known of it, or why it cannot be."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with explain_full_disk(task.folder / task.which.folder):
                known = _write(task)
    except Exception as error:  # whatever is wrong with one slice, the others go on
        if full_disk_errno(error) is not None:  # which is wrong with none of them
            raise
        return _reason(error)
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    known["warnings"] = list(dict.fromkeys(said))
    with atomic_path(task.done) as file:
        file.write_text(json.dumps({"made_of": task.made_of, "slice": known}))
    return known


def _write(task: _Task) -> dict[str, Any]:
    which = task.which
    own = read_slice(which, spatial_key=task.spatial_key, min_cells=task.settings["k"] + 1)
    with error_context(which.label):
        cut = PanelSlice(own.counts, own.pos, own.row, **task.settings)
    nodes: list[int] = []

    def records() -> Iterator[bytes]:
        for subslice in cut.cuts:
            nodes.append(subslice.num_nodes)
            yield encode(
                subslice, own.counts[subslice.node[subslice.node_type == NodeType.CELL].numpy()]
            )

    known = {
        "folder": which.folder,
        "path": which.source.path,
        "slice": which.name,
        "technology": own.technology,
        "organism": own.report.get("organism", "not told"),
        "cells": len(own.pos),
        "genes": len(own.genes),
    }
    attributes = {
        **known,
        "format": FORMAT,
        "stofm_geo": __version__,
        "settings": task.settings,
        "spacing": own.unit,
        "harmonize": own.report,
    }
    target = task.folder / which.folder
    task.done.unlink(missing_ok=True)
    with work_folder(target) as made:
        write_slice(made, records(), SliceHeader.from_slice(cut).to_bytes(), own.genes, attributes)
        (sha256, size), head = checksum(made), head_of(made)
        replace_path(made, target)
    content = _content(own)
    sums = {"bytes": size, "sha256": sha256, HEAD: head, "content": content}
    return {**known, "nodes": nodes, **sums}


def _content(own: CorpusSlice) -> str:
    """Return a hash of the cells that does not depend on pose, row order or file."""
    digest = hashlib.sha256("\n".join(own.genes).encode())
    digest.update(np.ascontiguousarray(own.pos).tobytes())
    for start in range(0, own.counts.shape[0], BLOCK):
        block: sp.csr_matrix = own.counts[start : start + BLOCK]
        for part in (block.data, block.indices.astype(np.int32), block.indptr.astype(np.int64)):
            digest.update(part.tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    message = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    known = isinstance(error, (ImportError, KeyError, OSError, TypeError, ValueError))
    return message if known and message else f"{type(error).__name__}: {message}"
