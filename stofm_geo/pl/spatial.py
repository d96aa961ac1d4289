"""Plot of slices coloured by a column of ``obs``, a gene, or a column of ``obsm``."""

from __future__ import annotations

import os
from dataclasses import replace

import anndata as ad
import numpy as np
from matplotlib.axes import Axes

from stofm_geo._keys import Keys
from stofm_geo.pl._categories import Palette
from stofm_geo.pl._paint import paint_by
from stofm_geo.pl._sheet import (
    Sheet,
    cells_by_slice,
    check_picture,
    draw_cells,
    legend_style,
    micrometres,
    window,
    write,
)


def spatial(
    adata: ad.AnnData,
    color: str | None = None,
    *,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    ax: Axes | None = None,
    size: float | None = None,
    palette: Palette = None,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes | np.ndarray:
    """Draw slices, with cells coloured by a column of ``obs``, a gene, or a column of ``obsm``.

    y points down, as in an image. A scale bar is drawn if ``adata.uns["spatial_unit"]`` is
    ``"nm"``, ``"um"`` or ``"mm"``. The figure does not belong to pyplot: in a notebook, end the
    cell with ``ax.figure``.

    Args:
        adata: Cells, coordinates in ``obsm[spatial_key]``.
        color: Column of ``obs``, else name in ``var_names``, else key and column of ``obsm``
            (``"X_stofm:0"``); None draws all cells in one colour. Numbers get a colour bar, clipped
            at the 1st or 99th percentile if there are outliers; other values, also booleans, get a
            legend. Missing values (and empty names) are grey. Colours of names are those in
            ``uns[color + "_colors"]``, where scanpy stores them, and are written there.
        spatial_key: Key of the coordinates, ``[n, 2]`` or more columns, of which two are drawn.
        slice_key: Column of ``obs`` with the slice of each cell; each slice gets a panel, at the
            same scale. None draws all cells in one panel, unless ``uns["spatialdata_attrs"]`` names
            several regions, which are slices.
        ax: Axes to draw in, for one panel; None makes a figure.
        size: Marker diameter in points; None fits it to the distance between cells.
        palette: For a legend, colours by name or in the order of the sorted names; for numbers,
            the name of a colormap. None: a colour-blind-friendly list, or viridis.
        title: Heading; None takes ``color``.
        save: File to write; its extension gives the format.

    Returns:
        The Axes, or for several slices an array of Axes, ``[n_slices]``, in natural order of names.

    Raises:
        KeyError: A key or ``color`` is not in ``adata``, or ``palette`` lacks a name.
        ValueError: There are no cells, coordinates are not finite, cells have no slice, both ``ax``
            and ``slice_key`` are given, ``palette`` is invalid, or the extension of ``save`` is
            unknown.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import datasets, pl
        >>> adata = datasets.toy_tissue(200, 30, n_slices=2, seed=0)
        >>> axes = pl.spatial(adata, "region", slice_key="slice_id")
        >>> [ax.get_title() for ax in axes]
        ['slice1', 'slice2']
    """
    path = None if save is None else check_picture(save)
    if ax is not None and slice_key is not None:
        raise ValueError(
            "ax is one panel, but slice_key needs one per slice: give only one of them"
        )
    slices = cells_by_slice(adata, spatial_key, slice_key)
    named = "" not in slices
    if ax is not None and named:
        raise ValueError(f"ax is one panel, but there are {len(slices)} slices: leave out ax")
    paint = paint_by(adata, color, palette)
    heading = (color or "") if title is None else title
    if heading == color:
        paint = replace(paint, title="")  # redundant with the heading
    um = micrometres(adata)
    if ax is not None:
        ax.set_title(heading, fontsize=11)
        extent = window(slices)
        box = ax.get_window_extent()
        points_per_unit = 72 / ax.figure.dpi * min(box.width / extent[0], box.height / extent[1])
        draw_cells(ax, slices[""], paint.rgba, size, extent, points_per_unit, um)
        if paint.legend:
            ax.legend(**legend_style(paint), loc="center left", bbox_to_anchor=(1.03, 0.5))
        elif paint.bar is not None:
            ax.figure.colorbar(paint.bar, ax=ax, extend=paint.extend, shrink=0.7)
        write(ax, path)
        return ax
    sheet = Sheet(slices, 1, heading if named else "")
    for panel, (name, cells) in zip(sheet.axes[:, 0], slices.items(), strict=True):
        panel.set_title(name if named else heading, fontsize=11)
        sheet.draw(panel, cells, paint.rgba, size, um)
    sheet.finish([paint])
    write(sheet.axes[0, 0], path)
    return sheet.axes[:, 0] if named else sheet.axes[0, 0]
