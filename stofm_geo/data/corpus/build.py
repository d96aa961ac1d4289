"""Building of a corpus from files: each slice is written completely or not at all, and once."""

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
    stamp_of,
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
    """A slice to build, and what its files depend on."""

    slice_: Slice
    folder: Path  # of all slices
    settings: dict[str, int]
    spatial_key: str
    stamp: tuple[int, int]  # size in bytes and time of change of the source

    @property
    def made_of(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **asdict(self.slice_),
            "settings": self.settings,
            "spatial_key": self.spatial_key,
            "stamp": list(self.stamp),
        }

    @property
    def done(self) -> Path:
        """Return the path of the record that is written after the slice."""
        return self.folder / f"{self.slice_.folder}.json"


def build(
    sources: Sequence[Source],
    folder: str | Path,
    *,
    k: int = 12,
    max_macro_nodes: int = 16,
    cells_per_subslice: int = 1000,
    n_components: int = 50,
    molecules: bool = False,
    spatial_key: str = Keys.SPATIAL,
    num_workers: int = 1,
    scheduler: str | None = None,
    part: str | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[tuple[str, str]]:
    """Build a corpus: write the sub-slices of all slices of the sources.

    Slices that were built before from the same source (path, size, time of change) and settings are
    kept, so that an interrupted build can be resumed. The same sources give the same bytes. A slice
    that cannot be built is skipped and listed in ``failed.csv`` with the reason, as is one with the
    same cells as another. Slices of other sources in the folder stay there, but do not belong to
    the corpus.

    Args:
        sources: Result of :func:`~stofm_geo.data.corpus.find_sources`.
        folder: Folder of the corpus.
        k: Number of nearest neighbours of a cell (default 12).
        max_macro_nodes: Maximum number of macro nodes of a slice (default 16).
        cells_per_subslice: Maximum number of core cells of a sub-slice (default 1000).
        n_components: Number of principal components of a slice, the targets (default 50).
        molecules: Whether to hold out molecules, for ``objectives="molecules"``; counts must be
            whole (default ``False``).
        spatial_key: Key in ``obsm`` of the positions, in any unit (default ``"spatial"``).
        num_workers: Number of processes, each with one thread and one slice at a time (default 1:
            the current process).
        scheduler: Address of a dask.distributed scheduler, whose workers build the slices instead
            of ``num_workers``; they must see the same files. If a worker dies, another one builds
            its slice. ``None``: this machine.
        part: ``"i/n"``: build every ``n``-th slice from the ``i``-th on, for the ``i``-th of ``n``
            parallel jobs, and no index; a final build without ``part`` builds missing slices and
            the index. ``None``: all slices.
        on_progress: Function called with a line of text for each finished slice.

    Returns:
        Labels of the skipped slices with the reasons, sorted.

    Warns:
        UserWarning: A slice looks doubtful.

    Raises:
        OSError: The folder cannot be written.
        RuntimeError: Another build is writing to the folder.
        TypeError, ValueError: A setting is invalid, or no slice could be built.
        ImportError: A scheduler is given, but dask.distributed is not installed.
    """
    settings = {
        "k": k,
        "max_macro_nodes": max_macro_nodes,
        "cells_per_subslice": cells_per_subslice,
        "n_components": n_components,
    }
    for name, value in {**settings, "num_workers": num_workers}.items():
        check_positive(name, value, whole=True)
    settings["molecules"] = bool(molecules)
    if part is not None:
        part_of((), part)
    folder = Path(folder)
    check_writable(folder / INDEX, make=True)
    (folder / SLICES).mkdir(parents=True, exist_ok=True)
    with locked(folder, part), explain_full_disk(folder):
        map_tasks = partial(pool.map_tasks, num_workers=num_workers)
        if scheduler is not None:
            map_tasks = partial(each_on_cluster, scheduler=scheduler)
        return _build(sources, folder, settings, spatial_key, map_tasks, part, on_progress)


def _build(
    sources: Sequence[Source],
    folder: Path,
    settings: dict[str, int],
    spatial_key: str,
    map_tasks: Callable[..., Iterator[tuple[_Task, Any]]],
    part: str | None,
    on_progress: Callable[[str], None],
) -> list[tuple[str, str]]:
    if part is None:
        clear_leftovers(folder / SLICES)  # of a build that was killed
    tasks: dict[str, _Task] = {}
    failed: dict[str, str] = {}
    for source in sources:
        try:
            stamp = stamp_of(Path(source.path))
            for slice_ in slices_of(source):
                task = _Task(slice_, folder / SLICES, settings, spatial_key, stamp)
                tasks.setdefault(slice_.folder, task)
        except (KeyError, OSError, TypeError, ValueError) as error:
            failed[source.path] = _reason(error).removeprefix(f"{source.path}: ")
    built = {name: _existing(task) for name, task in tasks.items()}
    names = sorted(tasks) if part is None else part_of(sorted(tasks), part)
    pending = [tasks[name] for name in names if built[name] is None]
    if any((task.folder / task.slice_.folder).is_dir() for task in pending):
        (folder / INDEX).unlink(missing_ok=True)  # outdated
    if len(pending) < len(names):
        on_progress(f"{len(names) - len(pending)} of {len(names)} slices are built already")
    for i, (task, result) in enumerate(map_tasks(_build_slice, pending), start=1):
        result = pool.DIED if result is None else result
        label = task.slice_.label
        if isinstance(result, str):
            failed[label] = result.removeprefix(f"{label}: ")
            on_progress(f"{i}/{len(pending)} {label}: skipped")
            continue
        built[task.slice_.folder] = result
        on_progress(
            f"{i}/{len(pending)} {label}: {result['cells']} cells, "
            f"{len(result['nodes'])} sub-slices"
        )
        for warning in result["warnings"]:
            warnings.warn(warning, stacklevel=3)
    if part is not None:
        return sorted(failed.items())
    slices: list[dict[str, Any]] = []
    first_label: dict[str, str] = {}
    for name, entry in sorted(built.items()):
        if entry is None:
            continue
        content = entry.pop("content")
        if content in first_label:
            failed[tasks[name].slice_.label] = f"has the same cells as {first_label[content]}"
        else:
            first_label[content] = tasks[name].slice_.label
            slices.append(entry)
    with atomic_path(folder / FAILED) as file, file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("slice", "reason"), *sorted(failed.items())])
    if not slices:
        raise ValueError(f"{folder}: no slice could be built; see {FAILED} there for the reasons")
    genes = set().union(*(read_genes(folder / SLICES / entry["folder"]) for entry in slices))
    index = {
        "format": FORMAT,
        "settings": settings,
        "technologies": sorted({entry["technology"] for entry in slices} - {""}),
        "failed": len(failed),
        "slices": slices,
        "genes": sorted(genes),
    }
    with atomic_path(folder / INDEX) as file:
        file.write_text(json.dumps(with_hash(index, HASH), indent=1))
    return sorted(failed.items())


def _existing(task: _Task) -> dict[str, Any] | None:
    """Return the record of a slice that is built already, else ``None``."""
    if not (task.folder / task.slice_.folder).is_dir():
        return None
    try:
        record = read_json(task.done)
        return record["slice"] if record["made_of"] == task.made_of else None
    except (KeyError, TypeError, ValueError):
        return None


def _build_slice(task: _Task) -> dict[str, Any] | str:
    """Write a slice; return its record, or the reason why it cannot be written."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with explain_full_disk(task.folder / task.slice_.folder):
                entry = _write_slice(task)
    except Exception as error:  # other slices are built whatever one raises
        if full_disk_errno(error) is not None:  # concerns all slices
            raise
        return _reason(error)
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    entry["warnings"] = list(dict.fromkeys(messages))
    with atomic_path(task.done) as file:
        file.write_text(json.dumps({"made_of": task.made_of, "slice": entry}))
    return entry


def _write_slice(task: _Task) -> dict[str, Any]:
    slice_ = task.slice_
    tissue = read_slice(slice_, spatial_key=task.spatial_key, min_cells=task.settings["k"] + 1)
    with error_context(slice_.label):
        settings: dict[str, Any] = task.settings
        panel_slice = PanelSlice(tissue.counts, tissue.pos, tissue.row, **settings)
    nodes: list[int] = []

    def records() -> Iterator[bytes]:
        for subslice in panel_slice.cuts:
            nodes.append(subslice.num_nodes)
            rows = subslice.node[subslice.node_type == NodeType.CELL].numpy()
            held_out = None if panel_slice.fractions is None else panel_slice.held_out[rows]
            yield encode(subslice, panel_slice.train[rows], held_out)

    entry = {
        "folder": slice_.folder,
        "path": slice_.source.path,
        "slice": slice_.name,
        "technology": tissue.technology,
        "organism": tissue.report.get("organism", "none"),
        "cells": len(tissue.pos),
        "genes": len(tissue.genes),
    }
    attributes = {
        **entry,
        "format": FORMAT,
        "stofm_geo": __version__,
        "settings": task.settings,
        "spacing": tissue.unit,
        "harmonize": tissue.report,
    }
    target = task.folder / slice_.folder
    task.done.unlink(missing_ok=True)
    with work_folder(target) as temporary:
        write_slice(
            temporary,
            records(),
            SliceHeader.from_slice(panel_slice).to_bytes(),
            tissue.genes,
            attributes,
        )
        (sha256, size), head = checksum(temporary), head_of(temporary)
        replace_path(temporary, target)
    content = _content(tissue)
    checksums = {"bytes": size, "sha256": sha256, HEAD: head, "content": content}
    return {**entry, "nodes": nodes, **checksums}


def _content(tissue: CorpusSlice) -> str:
    """Return a hash of the cells that does not depend on pose, row order or file."""
    digest = hashlib.sha256("\n".join(tissue.genes).encode())
    digest.update(np.ascontiguousarray(tissue.pos).tobytes())
    for start in range(0, tissue.counts.shape[0], BLOCK):
        block: sp.csr_matrix = tissue.counts[start : start + BLOCK]
        for array in (block.data, block.indices.astype(np.int32), block.indptr.astype(np.int64)):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    message = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    known = isinstance(error, (ImportError, KeyError, OSError, TypeError, ValueError))
    return message if known and message else f"{type(error).__name__}: {message}"
