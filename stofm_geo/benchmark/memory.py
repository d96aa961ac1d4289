"""Resident memory of this process, as Linux tells it."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path


def memory(field: str) -> float:
    """``VmRSS`` (resident now) or ``VmHWM`` (most since :func:`forget_peak`), in MiB; or NaN."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # another system
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Start the peak anew, where the system lets one, without what is not in use any more."""
    gc.collect()
    with suppress(OSError, AttributeError):  # of glibc
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
