"""Checks of arguments. Each message names the thing, what was found, and the fix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np


def check_positive(name: str, value: object, *, whole: bool = False, or_zero: bool = False) -> None:
    """Check that ``value`` is a finite number above zero.

    Args:
        name: Name in the error message.
        value: Value to check.
        whole: Require an integer.
        or_zero: Accept zero.

    Raises:
        TypeError: ``value`` is not a number, or not an integer.
        ValueError: ``value`` is out of range.
    """
    kind = Integral if whole else Real
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be a {'whole ' if whole else ''}number; found {value!r}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        least = "zero or more" if or_zero else "above zero"
        raise ValueError(f"{name} must be {least}; found {value!r}")


def check_fraction(name: str, value: object) -> None:
    """Check that ``value`` is a number between 0 and 1.

    Raises:
        TypeError: ``value`` is not a number.
        ValueError: ``value`` is out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number; found {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be a fraction between 0 and 1; found {value!r}")


def preview(names: object, most: int = 3) -> str:
    """Return the first ``most`` names as text, for a message."""
    names = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def listed(names: Iterable[object]) -> list[str] | str:
    """Return all names as sorted text, for a message; names of pandas columns may be numbers."""
    return sorted(map(str, names)) or "nothing"


def check_key(name: str, key: object) -> None:
    """Check that ``key`` is a name that h5ad and zarr files can store, without ``/``.

    Raises:
        TypeError: ``key`` is not a string.
        ValueError: Files cannot store ``key``.
    """
    if not isinstance(key, str):
        raise TypeError(f"{name} must be a name; found {key!r}")
    if not key or "/" in key or key in ("_index", ".", ".."):
        raise ValueError(f"{name} must be a name without '/' that files can hold; found {key!r}")


def check_model_output(values: np.ndarray, name: str, what: str) -> None:
    """Check that the output of a model is finite; finite weights can overflow.

    Args:
        values: Output of the model.
        name: Prefix of the error message.
        what: Name of the values in the error message.

    Raises:
        ValueError: Values are NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name}: {what} of this model are NaN or infinite; its weights are too large, or "
            "damaged: take the model from a copy"
        )


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Prefix errors and warnings raised within the context by ``name`` (a file, a slice)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
            ours = type(error) in (FileNotFoundError, KeyError, TypeError, ValueError)
            if not ours or len(error.args) != 1:
                raise
            raise type(error)(f"{name}: {error.args[0]}") from error
    for warning in caught:
        if type(warning.message) is UserWarning:
            warnings.warn(f"{name}: {warning.message}", stacklevel=4)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
