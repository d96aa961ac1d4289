"""Run compiled loops over ranges of rows, on as many threads as PyTorch uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch

_SMALL = 4_000  # thousand multiply-adds below which threads cost more than they save

_pool: ThreadPoolExecutor | None = None


def row_ranges(ptr: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return ranges of rows with about the same number of edges, by the offsets ``ptr`` of rows."""
    rows = len(ptr) - 1
    # Each row counts one extra edge, so that rows without edges are distributed, too.
    weight = ptr + np.arange(rows + 1)
    cuts = np.searchsorted(weight, np.linspace(0, weight[-1], count + 1)[1:-1])
    bounds = [0, *cuts.tolist(), rows]
    return [(a, b) for a, b in pairwise(bounds) if b > a]


def run_over_rows(work: Callable[[int, int], None], ptr: np.ndarray, cost: int) -> None:
    """Call ``work(first, last)`` on ranges of rows that cover all rows.

    Args:
        work: Compiled, and without the GIL; each row is written by one call only.
        ptr: Start of each row's edges.
        cost: Multiply-adds of all rows, in thousands.
    """
    threads = torch.get_num_threads() if cost > _SMALL else 1
    if threads == 1:
        work(0, len(ptr) - 1)
        return
    # More parts than threads, so that a delayed thread takes fewer of them.
    todo = iter(row_ranges(ptr, 4 * threads))
    helpers = [_executor().submit(_drain, work, todo) for _ in range(threads - 1)]
    _drain(work, todo)
    for helper in helpers:
        helper.result()


def run_over_edges(loop: Any, ptr: np.ndarray, x: np.ndarray, *arguments: Any) -> None:
    """Call ``loop(first, last, *arguments)`` on all rows; each edge reads one row of ``x``."""
    cost = int(ptr[-1]) * x[:1].size // 1000
    run_over_rows(lambda first, last: loop(first, last, *arguments), ptr, cost)


def run_over_nodes(loop: Any, nodes: int, size: int, *arguments: Any) -> None:
    """Call ``loop(first, last, *arguments)`` on all nodes, of ``size`` numbers each."""
    cost = nodes * size // 1000
    run_over_rows(lambda first, last: loop(first, last, *arguments), np.arange(nodes + 1), cost)


def as_arrays(kind: torch.dtype, *tensors: torch.Tensor) -> list[np.ndarray]:
    """Return tensors as contiguous arrays, floating-point ones in dtype ``kind``."""
    return [
        (t.detach().to(kind) if t.is_floating_point() else t).contiguous().numpy() for t in tensors
    ]


def _drain(work: Callable[[int, int], None], todo: Iterator[tuple[int, int]]) -> None:
    for first, last in todo:  # next() on a list's iterator is atomic under the GIL
        work(first, last)


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="stofm_geo")
    return _pool


def _reset_after_fork() -> None:
    """Drop the thread pool in a forked child, which has no threads."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_reset_after_fork)
