"""Runs of the suite; each cell of the results table is saved as soon as it is done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import current_process
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from stofm_geo._validation import check_positive
from stofm_geo.benchmark.datasets import DATASETS
from stofm_geo.benchmark.models import MODELS, Model
from stofm_geo.benchmark.records import FILE, KEYS, append, environment, key_of, read_rows
from stofm_geo.benchmark.scoring import MAIN
from stofm_geo.benchmark.tasks import TASKS
from stofm_geo.benchmark.worker import Cell, Worker, run_files, splits_of


def run(
    output: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    data: str | Path | None = None,
    seeds: int = 5,
    jobs: int = 1,
    limit: float = 1800.0,
    load: Sequence[str | Path] = (),
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run the cells missing in ``output``, in order of their seeds, and add their rows to it.

    A cell is a task, a data set, a split, a model and a seed. A failed cell is saved with its
    reason and is run again next time. Call this function under ``if __name__ == "__main__":``,
    since cells run in worker processes, which import the script for what it registers.

    Args:
        output: Folder of the results, which are in ``cells.jsonl``.
        tasks: Names of the tasks; ``None``: all.
        models: Names of the models; ``None``: all whose packages are installed.
        datasets: Names of the data sets; ``None``: all of the tasks whose files exist.
        data: Folder of the files of the data sets.
        seeds: Number of seeds of models that depend on one; others are run once.
        jobs: Number of worker processes, with one thread each.
        limit: Time limit of a cell in seconds.
        load: Python files that register models, tasks or data sets.
        say: Function called with each line of progress.

    Returns:
        The rows of this run.

    Raises:
        TypeError, ValueError: An argument is invalid.
        FileNotFoundError: The folder ``data`` or a file of ``load`` does not exist.
        RuntimeError: A file of ``load`` raises, or the call is not under ``__main__``.

    Examples:
        >>> import tempfile
        >>> from stofm_geo import benchmark
        >>> cells = {"tasks": ["domains"], "datasets": ["toy"], "models": ["PCA"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = benchmark.run(folder, **cells, say=lambda line: None)
        >>> [(row["split"], row["status"]) for row in rows]
        [('slice1', 'done'), ('slice2', 'done')]
    """
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        check_positive(name, value, whole=True)
    check_positive("limit", limit)
    for name, names in (("tasks", tasks), ("models", models), ("datasets", datasets)):
        if isinstance(names, str):
            raise TypeError(f"{name} must be a list of names; found the string {names!r}")
    if getattr(current_process(), "_inheriting", False):
        raise RuntimeError('put benchmark.run under if __name__ == "__main__":')
    output, data = Path(output), None if data is None else Path(data)
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"{data}: no such data folder")
    files = [Path(file) for file in load]
    run_files(files)
    file = output / FILE
    done = set()
    if file.exists():
        done = {key_of(row) for row in read_rows(output) if row["status"] == "done"}
    pending, rows, done_before = [], [], 0

    def keep(row: dict[str, Any]) -> None:
        append(row, file)
        rows.append(row)
        say(describe(row))

    for cell in _plan(tasks, models, datasets, data, seeds, say):
        if "reason" in cell:
            keep({**cell, "status": "failed", **environment()})
        elif key_of(cell) in done:
            done_before += 1
        else:
            pending.append(cell)
    say(f"{len(pending)} cells to run, {done_before} done before")
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(data, files, limit) for _ in range(min(jobs, max(len(pending), 1)))]
    lock = Lock()

    def work(cell: Cell) -> None:
        worker = idle.get()
        try:
            row = worker.run(cell)
        finally:
            idle.put(worker)
        with lock:
            keep(row)

    for worker in workers:
        idle.put(worker)
    pool = ThreadPoolExecutor(len(workers))
    try:
        for future in [pool.submit(work, cell) for cell in pending]:
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
    return rows


def rerun(
    row: dict[str, Any],
    *,
    data: str | Path | None = None,
    limit: float = 1800.0,
    load: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Run the cell of a row again; on the same machine and versions it gives the same scores.

    Args:
        row: Row of a results file.
        data: Folder of the data sets' files.
        limit: Time limit, in seconds.
        load: Python files that register more.

    Returns:
        The new row.

    Raises:
        KeyError: The row has no key of a cell.
        ValueError: The problem has changed since.

    Examples:
        >>> from stofm_geo import benchmark
        >>> cell = {"task": "domains", "dataset": "toy", "split": "slice1"}
        >>> row = benchmark.rerun({**cell, "model": "PCA", "seed": 0})
        >>> row["status"], "ari" in row["scores"]
        ('done', True)
    """
    if missing := [key for key in KEYS if key not in row]:
        raise KeyError(f"the row has no {', '.join(missing)}; use a row written by run")
    files = [Path(file) for file in load]
    run_files(files)
    worker = Worker(None if data is None else Path(data), files, limit)
    try:
        new = worker.run({key: row[key] for key in KEYS})
    finally:
        worker.stop()
    if "digest" in new and new["digest"] != row.get("digest", new["digest"]):
        raise ValueError(
            f"{row['task']} of {row['dataset']}, {row['split']}: data or split differ from those "
            f"of the row (digest {new['digest']}, in the row {row['digest']})"
        )
    return new


def _plan(
    tasks: Sequence[str] | None,
    models: Sequence[str] | None,
    datasets: Sequence[str] | None,
    data: Path | None,
    seeds: int,
    say: Callable[[str], None],
) -> Iterator[Cell]:
    """Yield all cells; those that cannot be run have a reason."""

    def failed(error: Exception, **known: str) -> Cell:
        message = error.args[0] if error.args else error
        return {**dict.fromkeys(KEYS[:4], ""), "seed": 0, **known, "reason": str(message)}

    usable: dict[str, Model] = {}
    for name in MODELS if models is None else models:
        try:
            model = MODELS[name]
        except KeyError as error:
            yield failed(error, model=name)
            continue
        if model.needs and find_spec(model.needs) is None:
            absent = ImportError(f"needs {model.needs}, which is not installed")
            if models is None:
                say(f"{name}: left out, {absent}")
            else:
                yield failed(absent, model=name)
            continue
        usable[name] = model
    table, used = [], set()
    for task in TASKS if tasks is None else tasks:
        try:
            known = TASKS[task]
        except KeyError as error:
            yield failed(error, task=task)
            continue
        for dataset in known.datasets:
            if datasets is not None and dataset not in datasets:
                continue
            used.add(dataset)
            try:
                if datasets is None and (reason := DATASETS[dataset].missing(data)):
                    say(f"{task} of {dataset}: left out, {reason}")
                    continue
                kinds = {
                    name: split.held_out for name, split in splits_of(task, dataset, data).items()
                }
                counts = Counter(kinds.values())
                # The number of splits of a kind tells reports whether a mean is complete.
                table += [
                    (task, dataset, name, {"held_out": kind, "splits": counts[kind]})
                    for name, kind in kinds.items()
                ]
            except Exception as error:  # whatever a data set raises, the others are run
                yield failed(error, task=task, dataset=dataset)
    for dataset in [name for name in datasets or () if name not in used]:
        yield failed(_why_unused(dataset), dataset=dataset)
    for seed in range(seeds):
        for task, dataset, split, of_kind in table:
            for name, model in usable.items():
                if TASKS[task].kind in model.kinds and (model.seeded or seed == 0):
                    values = (task, dataset, split, name, seed)
                    yield dict(zip(KEYS, values, strict=True)) | of_kind


def _why_unused(dataset: str) -> Exception:
    try:
        DATASETS[dataset]
    except KeyError as error:
        return error
    return ValueError(
        f"none of the requested tasks uses the data set {dataset!r}; tasks run on the data sets "
        "that they were registered with, register_task(name, kind, datasets, splits)"
    )


def describe(row: dict[str, Any]) -> str:
    """Return a line of text about a row."""
    where = ", ".join(str(row[key]) for key in KEYS[:4] if row[key]) + f", seed {row['seed']}"
    if row["status"] == "failed":
        return f"{where}: FAILED, {row['reason']}"
    name, _ = MAIN[TASKS[row["task"]].kind]
    name = name if name in row["scores"] else next(iter(row["scores"]), "no score")
    value = row["scores"].get(name, math.nan)
    return f"{where}: {name} {value:.3f}, {row['seconds']:.0f} s, {row['peak_mib']} MiB"
