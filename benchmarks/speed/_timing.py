"""Timing in interleaved rounds, and what the machine can do at best."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], object]


def clock(work: Work) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(
    works: dict[str, Work], base: str, rounds: int = 100, seconds: float = 1.0, least: int = 5
) -> dict[str, dict[str, Any]]:
    """Time several works in turns, so that noise hits all of them.

    A round runs each work once, in a shuffled order. A work is done once it took ``seconds`` in
    ``least`` runs or more; the base goes on until all others are done, or ``rounds`` are over.

    Args:
        works: What to time; each was called once at least, to warm it up.
        base: The work that the others are compared with, in the same round.
        rounds: Most rounds.
        seconds: Time of a work after which it is done.
        least: Fewest runs, where ``rounds`` are not fewer.

    Returns:
        For each work: median and quartiles in milliseconds, the number of runs, and median and
        quartiles of its ratios to the base (above 1: slower than the base).
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    left, shuffle = set(works), random.Random(0).shuffle
    for index in range(rounds):
        names = [name for name in works if name in left]
        shuffle(names)
        for name in names:
            found[name].append(clock(works[name]))
            if index + 1 >= least and sum(found[name]) > seconds and name != base:
                left.discard(name)
        if left == {base} and len(works) > 1 and index + 1 >= least:
            break
    # Nobody joins late, so the i-th run of each was in the i-th round.
    return {name: summary(times, found[base]) for name, times in found.items()}


def summary(times: list[float], base: list[float]) -> dict[str, Any]:
    """Median and quartiles in milliseconds, and of the ratios to ``base``."""
    ratios = [own / other for own, other in zip(times, base, strict=False)]
    return {
        "median_ms": 1e3 * statistics.median(times),
        "quartiles_ms": [1e3 * time for time in quartiles(times)],
        "runs": len(times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": quartiles(ratios),
    }


def quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return [lower, upper]


def peaks(sizes: tuple[int, ...] = (1024, 1536, 2048), megabytes: int = 512) -> dict[str, float]:
    """The best GEMM in float32 (GFLOP/s) and the best copy (GB/s, read and written bytes both)."""
    gemm = 0.0
    for size in sizes:
        a, b = torch.randn(size, size), torch.randn(size, size)
        out = torch.empty(size, size)
        best = min(clock(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) for _ in range(6))
        gemm = max(gemm, 2e-9 * size**3 / best)
    given = torch.ones(megabytes * 2**18)
    copy = torch.empty_like(given)
    best = min(clock(lambda: copy.copy_(given)) for _ in range(6))
    return {"gemm_gflops": gemm, "copy_gbytes": 2e-9 * given.numel() * 4 / best}
