"""Work on many slices by a cluster: the workers of a dask.distributed scheduler, or array jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits


def each_on_cluster(
    work: Callable[[Any], Any], tasks: Sequence[Any], scheduler: str
) -> Iterator[tuple[Any, Any]]:
    """Yield tasks and their results as they complete; ``None`` where the worker died repeatedly.

    A task whose worker dies is done again by another worker. Each task has one thread, so that its
    result does not depend on the machine's number of processors.

    Args:
        work: A function of a module; the workers must have this library and see the same files.
        tasks: What pickle takes.
        scheduler: Address of the scheduler, ``"tcp://10.0.0.1:8786"``, say.

    Raises:
        ImportError: dask.distributed is not installed.
        OSError: No scheduler answers there.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise ImportError(
            "a scheduler needs dask.distributed; pip install 'stofm-geo[cluster]'"
        ) from error
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no dask scheduler answers at {scheduler!r}; is the address right?"
        ) from error
    with client:
        futures = [client.submit(_alone, work, task, pure=False) for task in tasks]
        task_of = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        try:
            for future in as_completed(futures):
                try:
                    yield task_of[future.key], future.result()
                except KilledWorker:
                    yield task_of[future.key], None
        finally:
            client.cancel(futures)  # what is not done when the caller stops


def _alone(work: Callable[[Any], Any], task: Any) -> Any:
    with one_thread():
        return work(task)


def part_of(tasks: Sequence[Any], part: str) -> Sequence[Any]:
    """Return the tasks of one of several array jobs.

    Args:
        tasks: All, in an order that is the same in each job.
        part: ``"i/n"``, the ``i``-th of ``n`` parts, from 1.

    Raises:
        ValueError: It is not of this form, or not ``1 <= i <= n``.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    number, count = (int(text) for text in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"part must be i/n with 1 <= i <= n, 3/10 say; found {part!r}")
    return tasks[number - 1 :: count]


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit this process to one thread, so that sums do not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
