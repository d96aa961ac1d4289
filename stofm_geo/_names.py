"""Names of classes and slices, as columns of ``obs`` hold them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from numbers import Real

import numpy as np
import pandas as pd

# Texts that pandas, anndata and R write for missing values.
MISSING_WORDS = frozenset(
    ["nan", "NaN", "NAN", "None", "NA", "<NA>", "N/A", "n/a", "NaT", "null", "NULL"]
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_ZEROS = re.compile(r"\.0+$")


def read_names(values: pd.Series | Iterable[object], what: str | None = None) -> np.ndarray:
    """Return names as str, ``None`` where missing, as an object array ``[n]``.

    Surrounding blanks are stripped. Missing values are ``None``, NaN, ``pd.NA``, blanks, and the
    words written for them (``nan``, ``None``, ``NA``, ``<NA>``, ...). A whole number is the same
    name as integer, float or text, since pandas turns integers into floats if one is missing.

    Args:
        values: A column of any type: object, string, categorical, bool, number.
        what: Name in the warning. ``None``: do not warn.

    Raises:
        ValueError: Two columns have this name.

    Warns:
        UserWarning: Words are treated as missing values; a class with such a name must be renamed.
    """
    if isinstance(values, pd.DataFrame):
        raise ValueError(f"obs has several columns {values.columns[0]!r}; rename or drop one")
    if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        column = pd.Series(values)
        category_names = _texts(column.cat.categories)
        missing = np.array([None], dtype=object)  # code -1
        names = np.concatenate([category_names, missing])[column.cat.codes.to_numpy()]
    else:
        names = _texts(values)
    words = pd.Series(names, dtype=object).isin(MISSING_WORDS).to_numpy()
    if words.any():
        if what is not None:
            count = pd.Series(names[words]).value_counts()
            listed = ", ".join(f"{word!r} {number}" for word, number in count.items())
            warnings.warn(
                f"{what}: words for missing values are treated as missing in "
                f"{int(words.sum())} of {len(names)} cells ({listed}); rename real names",
                stacklevel=3,
            )
        names[words] = None
    return names


def _texts(values: Iterable[object]) -> np.ndarray:
    """Return each value as text, ``None`` where it is missing or blank."""
    values = list(values)
    names = np.empty(len(values), dtype=object)
    names[:] = [_text(value) for value in values]
    present = set(names) - {None} - MISSING_WORDS
    # "1.0" is the text of a float only if all names are numbers; otherwise it may be a version.
    if any(_ZEROS.search(name) for name in present) and all(map(_NUMBER.fullmatch, present)):
        names[:] = [name and _ZEROS.sub("", name) for name in names]
    return names


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(value))  # type: ignore[call-overload]
    return str(value)
