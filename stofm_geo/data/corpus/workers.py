"""Processing of tasks by several processes, any of which may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from stofm_geo.data.cluster import one_thread

DIED = "its process died; was there too little memory?"


def map_tasks(
    work: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield tasks and their results as they complete; ``None`` where the process died.

    Args:
        work: Module-level function; an exception ends the iteration.
        tasks: Arguments that can be pickled.
        num_workers: Number of processes, with one thread each; 1: the current process.
    """
    if num_workers == 1:
        with one_thread():
            yield from ((task, work(task)) for task in tasks)
        return
    remaining = dict(enumerate(tasks))
    while remaining:
        with _pool(min(num_workers, len(remaining))) as pool:
            futures = {pool.submit(work, task): i for i, task in remaining.items()}
            try:
                for future in as_completed(futures):
                    result = future.result()
                    yield remaining.pop(futures[future]), result
            except BrokenProcessPool:
                if num_workers == 1:  # so the first remaining task killed it
                    yield remaining.pop(min(remaining)), None
                num_workers = 1  # one at a time, to find the task that kills the process
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():  # a slice may take minutes
                    process.terminate()
                raise


def _pool(num_workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")  # a fork may inherit locked locks
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # handled by the parent, which ends this process
    torch.set_num_threads(1)
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent process ends; otherwise a worker would wait forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
