"""Worker processes that run cells of the results table."""

from __future__ import annotations

import importlib.util
import multiprocessing as mp
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from stofm_geo.benchmark.datasets import DATASETS, Slices
from stofm_geo.benchmark.memory import memory, reset_peak
from stofm_geo.benchmark.models import MODELS
from stofm_geo.benchmark.problems import Split, check_leak_free
from stofm_geo.benchmark.records import environment
from stofm_geo.benchmark.scoring import check_predictions
from stofm_geo.benchmark.tasks import TASKS

Cell = dict[str, Any]
# One thread, so that times compare however many workers there are, and sums have one order.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_STARTING = Lock()
_GRACE = 3.0  # seconds until an idle process is killed
_LOADED = "stofm_geo_benchmark_"  # prefix of the names of modules loaded from a user's files


class Worker:
    """Process that runs cells one after the other, started when first needed.

    If a model raises, only its cell fails. If it exceeds the time limit or kills the process, the
    next cell gets a new process.

    Args:
        data: Folder of the data sets.
        load: Python files that register models, tasks or data sets, run first in the process.
        limit: Time limit of a cell in seconds, including scoring.
    """

    def __init__(self, data: Path | None, load: Sequence[Path], limit: float) -> None:
        self.data, self.load, self.limit = data, tuple(load), limit
        self._process: mp.process.BaseProcess | None = None

    def run(self, cell: Cell) -> Cell:
        """Run a cell and return its row.

        Raises:
            RuntimeError: The process cannot be started.
        """
        process = self._start()
        try:
            self._pipe.recv()  # ready: importing libraries does not count as time of the cell
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a worker process ended while starting, see above; a script must call run under "
                'if __name__ == "__main__":, as worker processes import it'
            ) from error
        try:
            self._pipe.send(cell)
            if self._pipe.poll(self.limit):
                return self._pipe.recv()
            reason = f"TimeoutError: it took more than {self.limit:g} s"
        except (EOFError, ConnectionError):
            process.join()
            reason = f"RuntimeError: its process ended with {process.exitcode}"
        process.kill()
        self.stop()
        return {**cell, "status": "failed", "reason": reason, **environment()}

    def stop(self) -> None:
        """Stop the process; a working process is killed."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(_GRACE)
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> mp.process.BaseProcess:
        if self._process is not None:
            return self._process
        context = mp.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self.data, self.load), daemon=True)
        with _STARTING:  # another start must not restore the environment meanwhile
            before = {name: os.environ[name] for name in _THREADS if name in os.environ}
            os.environ |= dict.fromkeys(_THREADS, "1")  # read when libraries are imported
            try:
                process.start()
            finally:
                for name in _THREADS:
                    del os.environ[name]
                os.environ |= before
        other.close()
        self._process = process
        return process


def _serve(pipe: Any, data: Path | None, load: Sequence[Path]) -> None:
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # four times slower than the usual path here
    warnings.simplefilter("ignore")
    run_files(load)
    while True:
        try:
            pipe.send("ready")
            pipe.send(run_cell(pipe.recv(), data))
        except (EOFError, ConnectionError):  # the parent process has ended
            return


def run_files(load: Sequence[Path]) -> None:
    """Run Python files that register models, tasks or data sets, each once.

    Raises:
        FileNotFoundError: A file does not exist or is not a Python file.
        RuntimeError: A file raises.
    """
    for file in load:
        path = Path(file).resolve()
        name = f"{_LOADED}{path.stem}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file():
            raise FileNotFoundError(f"{file}: there is no such file")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(
                f"{file}: is not a Python file; name one that registers something"
            )
        # In sys.modules, since PyG's MessagePassing looks up the modules of its layers.
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            message = _describe_error(error)
            del sys.modules[name]
            raise RuntimeError(f"{file} cannot be loaded: {message}") from error


def run_cell(cell: Cell, data: Path | None) -> Cell:
    """Run a cell in this process; return its row, with scores or the reason of the failure."""
    row = dict(cell)
    try:
        split = split_of(cell["task"], cell["dataset"], cell["split"], data)
        problem, score = split.make()
        check_leak_free(problem)
        row["digest"], row["version"] = problem.digest(), TASKS[cell["task"]].version
        row["apart"] = problem.leak_free
        model = MODELS[cell["model"]]
        reset_peak()
        start = time.perf_counter()
        result = model.solve(problem, cell["seed"])
        row["seconds"] = round(time.perf_counter() - start, 2)
        row["peak_mib"] = round(memory("VmHWM"))
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError("a model must return predictions and a dict, which is kept in the row")
        predictions, record = result
        check_predictions(problem, predictions)
        row |= {"status": "done", "scores": score(predictions), "record": record}
    except Exception as error:  # whatever a model raises, the next cell is run
        row |= {"status": "failed", "reason": _describe_error(error)}
    row |= environment()
    needs = MODELS[cell["model"]].needs if cell["model"] in MODELS else None
    if needs:
        names = metadata.packages_distributions().get(needs, [])
        row["versions"] = row["versions"] | {name: metadata.version(name) for name in names}
    return row


def _describe_error(error: Exception) -> str:
    """Return type and first line of an error, and where it passed a user's file."""
    message = (str(error).strip() or "no reason given").splitlines()[0]
    user_files = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if name.startswith(_LOADED) or name in ("__main__", "__mp_main__")
    }
    frames = [at for at in traceback.extract_tb(error.__traceback__) if at.filename in user_files]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


@lru_cache(maxsize=1)
def _slices(dataset: str, data: Path | None) -> Slices:
    return DATASETS[dataset].read(data)


def splits_of(task: str, dataset: str, data: Path | None) -> dict[str, Split]:
    """Return the splits of a task on a data set by name."""
    return {split.name: split for split in TASKS[task].splits(_slices(dataset, data), dataset)}


def split_of(task: str, dataset: str, split: str, data: Path | None) -> Split:
    """Return a split of a task on a data set by name.

    Raises:
        KeyError: The task has no such split.
    """
    splits = splits_of(task, dataset, data)
    if split not in splits:
        raise KeyError(f"{task} of {dataset} has no split {split!r}; it has {', '.join(splits)}")
    return splits[split]
