"""A process of its own that answers cells of the table, and can be stopped."""

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
from stofm_geo.benchmark.memory import forget_peak, memory
from stofm_geo.benchmark.models import MODELS
from stofm_geo.benchmark.problems import Split, check_leak_free
from stofm_geo.benchmark.records import environment
from stofm_geo.benchmark.scoring import check_answers
from stofm_geo.benchmark.tasks import TASKS

Cell = dict[str, Any]
# One thread, so that times compare however many workers there are, and sums have one order.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_STARTING = Lock()
_GRACE = 3.0  # seconds that a process has to end by itself
_LOADED = "stofm_geo_benchmark_"  # names of modules that are loaded from a user's files


class Worker:
    """Answers cells one after the other, in a process that is started when it is needed.

    A model that raises costs its cell alone; one that takes too long, or brings the process down,
    costs the process, and the next cell has a new one.

    Args:
        data: Folder of the data sets.
        load: Python files that register things, run in the process first.
        limit: Seconds a cell may take, scoring included.
    """

    def __init__(self, data: Path | None, load: Sequence[Path], limit: float) -> None:
        self.data, self.load, self.limit = data, tuple(load), limit
        self._process: mp.process.BaseProcess | None = None

    def ask(self, cell: Cell) -> Cell:
        """Run a cell and return its row.

        Raises:
            RuntimeError: No process can be started.
        """
        process = self._start()
        try:
            self._pipe.recv()  # ready: reading libraries is none of the cell's time
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "a process for the cells ended as it started, see above; a script must call run "
                'under if __name__ == "__main__":, as these processes import it'
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
        """End the process: one that waits by itself, without a trace; one that works is killed."""
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
        with _STARTING:  # else one could start as another puts the environment back
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
            pipe.send(answer(pipe.recv(), data))
        except (EOFError, ConnectionError):  # the one who asked is gone
            return


def run_files(load: Sequence[Path]) -> None:
    """Run Python files for what they register, each once.

    Raises:
        FileNotFoundError: There is none.
        RuntimeError: It raises.
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
            raise FileNotFoundError(f"{file}: is no Python file; name one that registers something")
        # A module as any other: PyG's MessagePassing looks its layers' modules up.
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            said = _told(error)
            del sys.modules[name]
            raise RuntimeError(f"{file} cannot be loaded: {said}") from error


def answer(cell: Cell, data: Path | None) -> Cell:
    """One cell, in this process: its scores, or why there are none."""
    row = dict(cell)
    try:
        case = case_of(cell["task"], cell["dataset"], cell["split"], data)
        problem, score = case.make()
        check_leak_free(problem)
        row["digest"], row["version"] = problem.digest(), TASKS[cell["task"]].version
        row["apart"] = problem.leak_free
        model = MODELS[cell["model"]]
        forget_peak()
        start = time.perf_counter()
        found = model.solve(problem, cell["seed"])
        row["seconds"] = round(time.perf_counter() - start, 2)
        row["peak_mib"] = round(memory("VmHWM"))
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError("a model returns two things: answers, and a dict to be kept in the row")
        answers, record = found
        check_answers(problem, answers)
        row |= {"status": "done", "scores": score(answers), "record": record}
    except Exception as error:  # of any model: the next one goes on
        row |= {"status": "failed", "reason": _told(error)}
    row |= environment()
    needs = MODELS[cell["model"]].needs if cell["model"] in MODELS else None
    if needs:
        names = metadata.packages_distributions().get(needs, [])
        row["versions"] = row["versions"] | {name: metadata.version(name) for name in names}
    return row


def _told(error: Exception) -> str:
    """Kind and first line of an error, and the last line of a user's own file on the way to it."""
    said = (str(error).strip() or "no reason given").splitlines()[0]
    own = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if name.startswith(_LOADED) or name in ("__main__", "__mp_main__")
    }
    places = [at for at in traceback.extract_tb(error.__traceback__) if at.filename in own]
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {said}{where}"


@lru_cache(maxsize=1)
def _slices(dataset: str, data: Path | None) -> Slices:
    return DATASETS[dataset].read(data)


def cases(task: str, dataset: str, data: Path | None) -> dict[str, Split]:
    """Return the splits of a task on a data set by name."""
    return {case.name: case for case in TASKS[task].cases(_slices(dataset, data), dataset)}


def case_of(task: str, dataset: str, split: str, data: Path | None) -> Split:
    """One of them.

    Raises:
        KeyError: There is no such split.
    """
    found = cases(task, dataset, data)
    if split not in found:
        raise KeyError(f"{task} of {dataset} has no split {split!r}; it has {', '.join(found)}")
    return found[split]
