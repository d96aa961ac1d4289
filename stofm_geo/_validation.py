"""Checks of arguments. Each message names the thing, what was found, and the fix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real


def check_positive(name: str, value: object, *, whole: bool = False, or_zero: bool = False) -> None:
    """Check that ``value`` is a finite number above zero.

    Args:
        name: Name in the error message.
        value: What to check.
        whole: Require an integer.
        or_zero: Accept zero.

    Raises:
        TypeError: It is not a number, or not an integer.
        ValueError: It is out of range.
    """
    kind = Integral if whole else Real
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be a {'whole ' if whole else ''}number; found {value!r}")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        least = "zero or more" if or_zero else "above zero"
        raise ValueError(f"{name} must be {least}; found {value!r}")


def check_fraction(name: str, value: object) -> None:
    """Check that ``value`` is a number between 0 and 1.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number; found {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be a fraction between 0 and 1; found {value!r}")


def preview(names: object, most: int = 3) -> str:
    """Return the first ``most`` names as text, for a message."""
    names = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_key(name: str, key: object) -> None:
    """Check that ``key`` is a name that h5ad and zarr files can store, without ``/``.

    Raises:
        TypeError: It is not a string.
        ValueError: Files cannot store it.
    """
    if not isinstance(key, str):
        raise TypeError(f"{name} must be a name; found {key!r}")
    if not key or "/" in key or key in ("_index", ".", ".."):
        raise ValueError(f"{name} must be a name without '/', that files can hold; found {key!r}")


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Prefix errors and warnings raised within the context by ``name`` (a file, a slice)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            if type(error) not in (KeyError, TypeError, ValueError) or not error.args:
                raise  # not one of ours
            raise type(error)(f"{name}: {error.args[0]}") from error
    for warning in caught:
        if type(warning.message) is UserWarning:
            warnings.warn(f"{name}: {warning.message}", stacklevel=4)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
