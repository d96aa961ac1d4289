"""The machine that measures: what it is, and whether anything else uses it.

A case is measured between two looks at the machine: how fast a fixed product of matrices is, and
how much of the processors others have used meanwhile. A case that was disturbed is measured again.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed._measurements import Failed
from stofm_geo.benchmark.records import environment

_OTHERS = 0.15  # processors that others may use
_STOLEN = 0.03  # fraction of the processors' time that the host may give to other machines
_DRIFT = 1.25  # ratio of the products of matrices before and after
_PATIENCE = 120.0  # seconds to wait for a quiet machine
_TRIES = 3  # of a case that is disturbed
_SIZE = 768  # of the matrices
_GEMM = 0.5  # seconds of their products: over less, the clocks of one processor vary by a half


def description() -> dict[str, Any]:
    """Return the processor, its instructions and caches, threads and the library of GEMM."""
    show = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", show)
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "caches": _caches(),
        "threads": torch.get_num_threads(),
        "blas": blas[1] if blas else "unknown",
    }


def check_tree() -> None:
    """Check that a record can name what it measures.

    Raises:
        ValueError: The checkout has changes that are not committed, or is none.
    """
    commit = environment()["commit"]
    if commit == "unknown" or commit.endswith("-dirty"):
        raise ValueError(
            f"the commit is {commit}: a record must name what it measures; commit the changes, or "
            "try with --quick"
        )


class Watch:
    """Measures cases on a quiet machine, and notes what the machine did meanwhile.

    Args:
        quick: Neither wait for a quiet machine nor measure anything again.

    Attributes:
        cases: One row per case: its name, GFLOP/s before and after, processors that others used,
            fraction of stolen time, how often it was measured, and whether it was disturbed in the
            end.
    """

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.cases: list[dict[str, Any]] = []

    def __call__(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """Return what a function gives, measured again while the machine was disturbed.

        Raises:
            Failed: The machine is busy.
        """
        print(name, flush=True)
        for attempt in range(1, _TRIES + 1):
            if not self.quick:
                wait_until_quiet()
            before, start = gflops(), _Usage()
            result = function(*given)
            others, stolen = start.since()
            after = gflops()
            row = {"case": name, "gflops": [round(before, 1), round(after, 1)]}
            row |= {"others": others, "stolen": stolen, "attempts": attempt}
            row["disturbed"] = _disturbed(before, after, others, stolen)
            if self.quick or not row["disturbed"]:
                break
            print(f"{name}: disturbed ({row})", flush=True)
        self.cases.append(row)
        return result


def _disturbed(before: float, after: float, others: float | None, stolen: float | None) -> bool:
    drift = max(before, after) / min(before, after)
    return drift > _DRIFT or (others or 0) > _OTHERS or (stolen or 0) > _STOLEN


def wait_until_quiet() -> None:
    """Wait until nothing else uses the processors.

    Raises:
        Failed: They are busy for minutes.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        start = _Usage()
        time.sleep(1)
        others, _ = start.since()
        if others is None or others <= _OTHERS:
            return
        if time.monotonic() > end:
            raise Failed(f"the machine is busy: others use {others:.2f} processors; stop them")


def gflops() -> float:
    """Return the speed of a fixed product of matrices in single precision, by all threads."""
    a, b = torch.ones(_SIZE, _SIZE), torch.ones(_SIZE, _SIZE)
    times = []
    end = time.perf_counter() + _GEMM
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2e-9 * _SIZE**3 / median(times[1:])


class _Usage:
    """Processor time of the machine and of this process with its children, from now on."""

    def __init__(self) -> None:
        self.time, self.own, self.machine = time.monotonic(), _own_seconds(), _machine_seconds()

    def since(self) -> tuple[float | None, float | None]:
        """Return the processors that others used, and the fraction of stolen time.

        Both are ``None`` where the system does not say.
        """
        elapsed = time.monotonic() - self.time
        now = _machine_seconds()
        if self.machine is None or now is None or not elapsed:
            return None, None
        busy, stolen = (new - old for new, old in zip(now, self.machine, strict=True))
        others = max(0.0, busy - (_own_seconds() - self.own)) / elapsed
        return round(others, 3), round(stolen / elapsed / (os.cpu_count() or 1), 4)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _machine_seconds() -> tuple[float, float] | None:
    """Return the busy and the stolen seconds of all processors since the system started (Linux)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, interrupts, soft, stolen = fields[:8]
    return (user + nice + system + interrupts + soft) / ticks, stolen / ticks


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Return the sizes of the caches of a processor by level and kind, where the system says."""
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        caches[f"L{level} {kind.lower()}"] = size
    return caches
