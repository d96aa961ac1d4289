"""Colours of cells: names by a palette, numbers by a colormap."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array

from stofm_geo._anndata_checks import check_obsm
from stofm_geo._colors import BASE
from stofm_geo._validation import preview
from stofm_geo.pl._categories import Palette, chosen_colors, names_of, store_colors

MISSING = "#d9d9d9"


@dataclass(frozen=True)
class Paint:
    title: str
    rgba: np.ndarray  # [n_obs, 4]
    legend: dict[str, str] | None = None  # name to colour
    bar: ScalarMappable | None = None
    extend: str = "neither"  # clipped ends of the colour bar, as in matplotlib


def paint_by(adata: ad.AnnData, color: str | None, palette: Palette) -> Paint:
    if color is None:
        return Paint("", np.tile(to_rgba_array(BASE[0]), (adata.n_obs, 1)))
    genes = np.flatnonzero(adata.var_names == color)
    if color in adata.obs:
        column = adata.obs[color]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            names = names_of(column)
            colors = chosen_colors([adata], [color], palette)
            store_colors(adata, color, colors, MISSING)
            return paint_names(names, color, colors)
        values = column.to_numpy(dtype=float, na_value=np.nan)
    elif len(genes) == 1:
        values = np.asarray(adata.obs_vector(color), dtype=float)
    elif len(genes):
        raise ValueError(f"{color!r} names {len(genes)} genes: run adata.var_names_make_unique()")
    elif color.rpartition(":")[0] in adata.obsm:
        values = _obsm_column(adata, *color.rsplit(":", 1))
    else:
        raise KeyError(
            f"{color!r} is neither a gene in var_names nor a column of obs: choose a gene, one of "
            f"{list(adata.obs.columns)}, or a column of obsm, such as 'X_stofm:0'"
        )
    if not isinstance(palette, str | None):
        raise TypeError(
            f"{color!r} holds numbers, for which palette must be the name of a colormap; "
            f"found {palette!r}"
        )
    if palette is not None and palette not in colormaps:
        raise ValueError(f"palette={palette!r} is not a colormap of matplotlib: try 'viridis'")
    scale, extend = _scale(values)
    bar = ScalarMappable(scale, colormaps[palette or "viridis"])
    rgba = bar.to_rgba(values)
    rgba[~np.isfinite(values)] = to_rgba_array(MISSING)
    return Paint(color, rgba, bar=bar, extend=extend)


def _obsm_column(adata: ad.AnnData, key: str, column: str) -> np.ndarray:
    """Return ``column`` of ``obsm[key]``, by name in a DataFrame, otherwise by index."""
    values = adata.obsm[key]
    if isinstance(values, pd.DataFrame):
        names = [str(name) for name in values.columns]
        values = values.to_numpy(dtype=float, na_value=np.nan)
    else:
        values = check_obsm(adata, key)
        names = [str(i) for i in range(values.shape[1])]
    if names.count(column) != 1:
        raise KeyError(
            f"obsm[{key!r}] has {names.count(column)} columns {column!r}; it has {preview(names)}"
        )
    return values[:, names.index(column)]


def _scale(values: np.ndarray) -> tuple[Normalize, str]:
    """Return a color scale clipped at outliers, and which of its ends are clipped."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Normalize(0, 1), "neither"
    low, p1, p99, high = (float(q) for q in np.percentile(values, [0, 1, 99, 100]))
    cut_low = p1 - low > 0.1 * (p99 - p1) > 0
    cut_high = high - p99 > 0.1 * (p99 - p1) > 0
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    return Normalize(p1 if cut_low else low, p99 if cut_high else high), extend[cut_low, cut_high]


def paint_names(names: np.ndarray, title: str, colors: dict[str, str]) -> Paint:
    """Return the colours of cells by name; the legend has the names that occur."""
    present = set(names)
    colors = {name: color for name, color in colors.items() if name in present}
    legend = colors if names.astype(bool).all() else {**colors, "not labelled": MISSING}
    by_name = {name: to_rgba_array(color)[0] for name, color in {**colors, "": MISSING}.items()}
    return Paint(title, np.array([by_name[name] for name in names]), legend=legend)
