"""Compilation of the CPU kernels by numba, and elementary functions for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, njit
from numba.extending import overload, register_jitable


def compiled(function: Callable) -> Any:
    """Compile a function at its first call of each type, without the GIL, cached if possible.

    Sums may be reordered, which vectorisation needs. Infinities keep their meaning, since a bias of
    ``-inf`` masks an edge.
    """
    return _compiled(function, {"reassoc", "contract", "arcp", "nsz"})


def compiled_exactly(function: Callable) -> Any:
    """Compile a function as :func:`compiled` does, without reordering of operations."""
    return _compiled(function, set())


def _compiled(function: Callable, fastmath: set[str]) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no writable cache folder
        return njit(**options)(function)


def log(x: float) -> float:
    """Return the logarithm in the precision of ``x``."""
    return math.log(x)


def exp(x: float) -> float:
    """Return the exponential; in single precision, to 3e-7 relative, and 0 below -87."""
    return math.exp(x)


@register_jitable
def _exp_single(x):  # type: ignore[no-untyped-def]
    # 2^n e^r with |r| <= ln(2) / 2, a polynomial for e^r (Cephes' expf), n put into the exponent.
    low = x < np.float32(-87)
    x = max(x, np.float32(-87))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0) if low else p * scale


@overload(exp, inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    if x == float32:
        return lambda x: _exp_single(x)
    return lambda x: math.exp(x)


@overload(log, inline="always")
def _log(x):  # type: ignore[no-untyped-def]
    return lambda x: math.log(x)
