"""Colours of the names in a column of ``obs``, stored in ``uns`` as scanpy does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib.colors import is_color_like, to_hex

from stofm_geo._colors import default_colors, natural_sort, unused_colors
from stofm_geo._names import read_names

Palette = Mapping[str, str] | Sequence[str] | str | None


def column_of(adata: ad.AnnData, key: str) -> pd.Series:
    if key not in adata.obs:
        raise KeyError(f"obs has no column {key!r}: choose one of {list(adata.obs.columns)}")
    return adata.obs[key]


def names_of(column: pd.Series) -> np.ndarray:
    """Return a column as an array of str, empty where a value is missing."""
    return np.array([name or "" for name in read_names(column)], dtype=object)


def categories_of(column: pd.Series) -> list[str]:
    """Return all names of a column, including unused categories; ``""`` for missing names.

    The order is that of the categories, and so of the colours in ``uns``.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [name or "" for name in read_names(column.cat.categories)]
    return natural_sort(names_of(column))


def stored_colors(adata: ad.AnnData, key: str) -> dict[str, str]:
    """Return the colours in ``uns[key + "_colors"]`` by name; empty if they do not match."""
    colors, names = adata.uns.get(f"{key}_colors"), categories_of(column_of(adata, key))
    if not isinstance(colors, list | tuple | np.ndarray):
        return {}
    if len(colors) < len(names):
        warnings.warn(
            f"uns['{key}_colors'] has {len(colors)} colours for the {len(names)} names of "
            f"obs[{key!r}], and is not used; give one for each name",
            stacklevel=2,
        )
        return {}
    colors = [str(color) for color in colors]
    if not all(map(is_color_like, colors)):
        return {}
    return {name: to_hex(color) for name, color in zip(names, colors, strict=False) if name}


def store_colors(adata: ad.AnnData, key: str, colors: Mapping[str, str], missing: str) -> None:
    """Write ``uns[key + "_colors"]`` if all names have a colour.

    Nothing is written into a view, which would be copied, or for numbers and booleans, for which
    scanpy has no colours.
    """
    column = column_of(adata, key)
    names = categories_of(column)
    text = isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind not in "biufM"
    if adata.is_view or not text or not all(name in colors for name in names if name):
        return
    adata.uns[f"{key}_colors"] = [colors.get(name, missing) for name in names]


def colors_of(names: list[str], palette: Palette) -> dict[str, str]:
    """Return colours by name, from a palette or the default colours."""
    if palette is None:
        return default_colors(names)
    if isinstance(palette, str):
        raise TypeError(f"names need a palette of colours, by name or in a list; found {palette!r}")
    if isinstance(palette, Mapping):
        by_name = dict(zip(read_names(list(palette)), palette.values(), strict=True))
        absent = [name for name in names if name not in by_name]
        if absent:
            raise KeyError(f"palette has no colour for {absent}: add them to {list(by_name)}")
        return {name: to_hex(by_name[name]) for name in names}
    if len(palette) < len(names):
        raise ValueError(f"palette has {len(palette)} colours for {len(names)} names: add more")
    return {name: to_hex(color) for name, color in zip(names, palette, strict=False)}


def chosen_colors(
    adatas: Sequence[ad.AnnData], keys: Sequence[str], palette: Palette
) -> dict[str, str]:
    """Return colours of all names in these columns, including unused categories.

    Colours are those of ``palette``, if given; else those in ``uns``, where earlier keys take
    precedence, and default colours for other names.
    """
    columns = [column_of(adata, key) for key in keys for adata in adatas]
    names = natural_sort(name for column in columns for name in categories_of(column))
    if palette is not None:
        used = natural_sort(name for column in columns for name in names_of(column))
        enough = isinstance(palette, str | Mapping) or len(palette) >= len(names)
        if isinstance(palette, Mapping):
            enough = set(read_names(list(palette))) >= set(names)
        return colors_of(names if enough else used, palette)
    stored: dict[str, str] = {}
    for key in keys:
        for adata in adatas:
            stored = {**stored_colors(adata, key), **stored}
    if not stored:
        return default_colors(names)
    unused = unused_colors(stored.values())
    return {name: stored[name] if name in stored else next(unused) for name in names}
