"""Known regions beside spatial domains, in matching colours."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from stofm_geo._colors import natural_sort, unused_colors
from stofm_geo._keys import Keys
from stofm_geo.pl._categories import (
    Palette,
    categories_of,
    chosen_colors,
    column_of,
    names_of,
    store_colors,
    stored_colors,
)
from stofm_geo.pl._paint import MISSING, paint_names
from stofm_geo.pl._sheet import Sheet, cells_by_slice, check_picture, micrometres, write


def domains(
    adata: ad.AnnData,
    key: str = Keys.DOMAIN,
    label_key: str | None = None,
    *,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    size: float | None = None,
    palette: Palette = None,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Draw known regions beside spatial domains, in matching colours.

    Domains and regions are paired one to one so that they share as many cells as possible
    (Hungarian matching, all slices together); a domain takes the colour of its region, domains
    left over get colours of their own. Colours that a column has in ``uns[key + "_colors"]``, as
    scanpy keeps them and :func:`stofm_geo.tl.domains` writes them, stay, and the other side takes
    them over; what was drawn is written there. Titles give the adjusted Rand index (ARI) over
    labelled cells. Without labels only the domains are drawn.

    Args:
        adata: Cells, coordinates in ``obsm[spatial_key]``.
        key: Column of ``obs`` with the found domains.
        label_key: Column of ``obs`` with the known regions; None, or a column without a single
            label, draws only the domains.
        spatial_key: As in :func:`spatial`.
        slice_key: As in :func:`spatial`.
        size: As in :func:`spatial`.
        palette: Colours of the regions (of the domains where there are no regions), by name or
            in the order of the sorted names; None takes a colour-blind-friendly list.
        title: Heading; None says what is compared, and the ARI.
        save: As in :func:`spatial`.

    Returns:
        Array of Axes, ``[n_slices, 2]``, or ``[n_slices, 1]`` without labels.

    Raises:
        KeyError: A key is not in ``adata``, or ``palette`` lacks a name.
        ValueError: As in :func:`spatial`.
        FileNotFoundError: The folder of ``save`` does not exist.
    """
    path = None if save is None else check_picture(save)
    slices = cells_by_slice(adata, spatial_key, slice_key)
    found = names_of(column_of(adata, key))
    known = None if label_key is None else names_of(column_of(adata, label_key))
    if label_key is None or known is None or not known.astype(bool).any():
        colors = chosen_colors([adata], [key], palette)
        store_colors(adata, key, colors, MISSING)
        paints, heading = [paint_names(found, key, colors)], key
    else:
        regions, own = share_colors([adata], key, label_key, palette)
        paints = [paint_names(known, label_key, regions), paint_names(found, key, own)]
        heading = f"{label_key} and {key}{_ari(found, known)}"
    sheet = Sheet(slices, len(paints), heading if title is None else title)
    um = micrometres(adata)
    for panels, (name, cells) in zip(sheet.axes, slices.items(), strict=True):
        for panel, paint in zip(panels, paints, strict=True):
            sheet.draw(panel, cells, paint.rgba, size, um)
        if len(paints) == 2 and known is not None:
            panels[0].set_title(f"{name}  known" if name else label_key, fontsize=11)
            score = _ari(found[cells.rows], known[cells.rows]) if name else ""
            panels[1].set_title(f"found{score}" if name else key, fontsize=11)
        else:
            panels[0].set_title(name, fontsize=11)
    sheet.finish(paints)
    write(sheet.axes[0, 0], path)
    return sheet.axes


def share_colors(
    adatas: Sequence[ad.AnnData], key: str, label_key: str, palette: Palette = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Match colours of known regions and found domains over several AnnData, and store them.

    What has colours in ``uns`` keeps them, and the other side takes them over; with a palette, or
    where neither has any, the domains take over those of the regions.

    Returns:
        Colours of the regions and of the domains, by name.
    """
    stored: list[dict[str, str]] = [{}, {}]
    for i, column in enumerate((label_key, key)):
        for one in adatas:
            stored[i] = {**stored_colors(one, column), **stored[i]}
    found, known = (
        np.concatenate([names_of(column_of(one, column)) for one in adatas])
        for column in (key, label_key)
    )
    names = natural_sort(name for one in adatas for name in categories_of(one.obs[key]))
    of_regions = natural_sort(name for one in adatas for name in categories_of(one.obs[label_key]))
    if palette is None and stored[1]:
        own = chosen_colors(adatas, [key], None)
        regions = (
            chosen_colors(adatas, [label_key], None)
            if stored[0]
            else _match_colors(known, found, of_regions, own)
        )
    else:
        regions = chosen_colors(adatas, [label_key], palette)
        own = _match_colors(found, known, names, regions)
    for one in adatas:
        store_colors(one, label_key, regions, MISSING)
        store_colors(one, key, own, MISSING)
    return regions, own


def _match_colors(
    free: np.ndarray, fixed: np.ndarray, names: list[str], colors: dict[str, str]
) -> dict[str, str]:
    """Return the colours of the free names: each takes that of the fixed name paired with it."""
    both = free.astype(bool) & fixed.astype(bool)
    shared = pd.crosstab(free[both], fixed[both]).reindex(
        index=names, columns=list(colors), fill_value=0
    )
    pairs = zip(*linear_sum_assignment(-shared.to_numpy()), strict=True)
    taken = {names[i]: colors[shared.columns[j]] for i, j in pairs if shared.iat[i, j] > 0}
    spare = unused_colors(colors.values())
    return {name: taken[name] if name in taken else next(spare) for name in names}


def _ari(found: np.ndarray, known: np.ndarray) -> str:
    both = found.astype(bool) & known.astype(bool)
    return f"  (ARI {adjusted_rand_score(known[both], found[both]):.2f})" if both.any() else ""
