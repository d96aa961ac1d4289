"""Work on many slices by several processes, of which any may die."""

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


def each(
    work: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield tasks and their results as they complete; ``None`` where the process died.

    Args:
        work: A function of a module. What it raises ends all.
        tasks: What pickle takes.
        num_workers: Processes, each with one thread; with 1, the work is done in this one.
    """
    if num_workers == 1:
        with one_thread():
            yield from ((task, work(task)) for task in tasks)
        return
    left = dict(enumerate(tasks))
    while left:
        with _pool(min(num_workers, len(left))) as pool:
            futures = {pool.submit(work, task): i for i, task in left.items()}
            try:
                for future in as_completed(futures):
                    result = future.result()
                    yield left.pop(futures[future]), result
            except BrokenProcessPool:
                if num_workers == 1:  # so it was the first that was left
                    yield left.pop(min(left)), None
                num_workers = 1  # which one it was shows one by one
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():  # which need minutes for a slice
                    process.terminate()
                raise


def _pool(num_workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")  # a fork has locks of threads it does not have
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer, which ends this one
    torch.set_num_threads(1)
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent process ends; otherwise a worker would wait forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)
