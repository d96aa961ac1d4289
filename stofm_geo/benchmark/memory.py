"""Resident memory of this process, on Linux."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path


def memory(field: str) -> float:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak since :func:`reset_peak`) in MiB; NaN elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def reset_peak() -> None:
    """Free unused memory and reset the peak, if the system supports it."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only in glibc
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
