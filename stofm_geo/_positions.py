"""Find the columns x and y in a table."""

from __future__ import annotations

import re
import warnings

import pandas as pd

_PAIRS = (("x", "y"), ("column", "row"), ("col", "row"))
# Positions within a field of view, or indices of rows and columns: used only as a last resort.
_LAST_RESORT = re.compile("local|array|index")


def xy_columns(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return the columns of ``obsm[key]`` that are x and y, in this order, as float64.

    They are found by name: ``x, y``, ``x_centroid, y_centroid``, ``CenterX_global_px, ...``,
    ``pxl_col_in_fullres, pxl_row_in_fullres``, ``array_col, array_row`` and the like.

    Args:
        table: Positions, ``[n, columns]``.
        key: Name in messages.

    Raises:
        ValueError: There are fewer than two numeric columns.

    Warns:
        UserWarning: No column is called x or y; the first two numeric columns are used.
    """
    numbers = table.apply(_as_numbers)
    numeric = [i for i in range(table.shape[1]) if numbers.iloc[:, i].notna().any()]
    names = [str(name) for name in table.columns]
    pair = xy_pair([names[i] for i in numeric])
    if pair is not None:
        return numbers.iloc[:, [names.index(name) for name in pair]]
    if len(numeric) < 2:
        raise ValueError(
            f"obsm[{key!r}] has {len(numeric)} columns of numbers ({', '.join(names)}); x and y "
            "are needed"
        )
    first = [names[i] for i in numeric[:2]]
    # A table with default names is an array.
    if len(numeric) > 2 or first != ["0", "1"]:
        warnings.warn(
            f"obsm[{key!r}] has the columns {', '.join(names)}, none of which is called x or y; "
            f"{first[0]!r} is used as x and {first[1]!r} as y",
            stacklevel=4,
        )
    return numbers.iloc[:, numeric[:2]]


def _as_numbers(column: pd.Series) -> pd.Series:
    """Return a column as float64, NaN where there is no number."""
    if pd.api.types.is_bool_dtype(column):
        return pd.Series(float("nan"), column.index)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    return pd.to_numeric(column, errors="coerce").astype("Float64").astype("float64")


def xy_pair(names: list[str]) -> tuple[str, str] | None:
    """Return the two names that mean x and y, if there are any."""
    lower = {name.lower(): name for name in reversed(names)}
    pairs = []
    for name in map(str.lower, names):
        for rank, (x, y) in enumerate(_PAIRS):
            for match in re.finditer(x, name):
                partner = name[: match.start()] + y + name[match.end() :]
                if partner in lower:
                    pairs.append((bool(_LAST_RESORT.search(name)), min(rank, 1), name, partner))
    if not pairs:
        return None
    # The first of equals.
    _, _, x, y = min(pairs, key=lambda pair: pair[:2])
    return lower[x], lower[y]
