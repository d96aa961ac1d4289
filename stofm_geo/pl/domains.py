"""Plot of known regions beside spatial domains, in matching colours."""

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
    (Hungarian matching, all slices together); a domain gets the colour of its region, and
    unpaired domains get unused colours. Colours in ``uns[key + "_colors"]``, where scanpy and
    :func:`stofm_geo.tl.domains` store them, are kept, and the other column is matched to them; the
    colours drawn are written there. Titles give the adjusted Rand index (ARI) over
    labelled cells. Without labels only the domains are drawn.

    Args:
        adata: Cells, coordinates in ``obsm[spatial_key]``.
        key: Column of ``obs`` with the found domains.
        label_key: Column of ``obs`` with the known regions; None, or a column without a single
            label, draws only the domains.
        spatial_key: As in :func:`spatial`.
        slice_key: As in :func:`spatial`.
        size: As in :func:`spatial`.
        palette: Colours of the regions (of the domains without regions), by name or in the order of
            the sorted names; None takes a colour-blind-friendly list.
        title: Heading; None gives the compared columns and the ARI.
        save: As in :func:`spatial`.

    Returns:
        Array of Axes, ``[n_slices, 2]``, or ``[n_slices, 1]`` without labels.

    Raises:
        KeyError: A key is not in ``adata``, or ``palette`` lacks a name.
        ValueError: As in :func:`spatial`.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import datasets, pl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obs["stofm_domain"] = adata.obs["region"].cat.codes.astype(str)
        >>> axes = pl.domains(adata, label_key="region")
        >>> [ax.get_title() for ax in axes[0]]
        ['region', 'stofm_domain']
    """
    path = None if save is None else check_picture(save)
    slices = cells_by_slice(adata, spatial_key, slice_key)
    predicted = names_of(column_of(adata, key))
    known = None if label_key is None else names_of(column_of(adata, label_key))
    if label_key is None or known is None or not known.astype(bool).any():
        colors = chosen_colors([adata], [key], palette)
        store_colors(adata, key, colors, MISSING)
        paints, heading = [paint_names(predicted, key, colors)], key
    else:
        region_colors, domain_colors = share_colors([adata], key, label_key, palette)
        paints = [
            paint_names(known, label_key, region_colors),
            paint_names(predicted, key, domain_colors),
        ]
        heading = f"{label_key} and {key}{_ari(predicted, known)}"
    sheet = Sheet(slices, len(paints), heading if title is None else title)
    um = micrometres(adata)
    for panels, (name, cells) in zip(sheet.axes, slices.items(), strict=True):
        for panel, paint in zip(panels, paints, strict=True):
            sheet.draw(panel, cells, paint.rgba, size, um)
        if len(paints) == 2 and known is not None:
            panels[0].set_title(f"{name}  known" if name else label_key, fontsize=11)
            score = _ari(predicted[cells.rows], known[cells.rows]) if name else ""
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

    Colours in ``uns`` are kept, and the other column is matched to them; with a palette, or if
    neither column has colours, domains are matched to regions.

    Returns:
        Colours of the regions and of the domains, by name.
    """
    stored: list[dict[str, str]] = [{}, {}]
    for i, column in enumerate((label_key, key)):
        for adata in adatas:
            stored[i] = {**stored_colors(adata, column), **stored[i]}
    predicted, known = (
        np.concatenate([names_of(column_of(adata, column)) for adata in adatas])
        for column in (key, label_key)
    )
    domain_names = natural_sort(name for adata in adatas for name in categories_of(adata.obs[key]))
    region_names = natural_sort(
        name for adata in adatas for name in categories_of(adata.obs[label_key])
    )
    if palette is None and stored[1]:
        domain_colors = chosen_colors(adatas, [key], None)
        region_colors = (
            chosen_colors(adatas, [label_key], None)
            if stored[0]
            else _match_colors(known, predicted, region_names, domain_colors)
        )
    else:
        region_colors = chosen_colors(adatas, [label_key], palette)
        domain_colors = _match_colors(predicted, known, domain_names, region_colors)
    for adata in adatas:
        store_colors(adata, label_key, region_colors, MISSING)
        store_colors(adata, key, domain_colors, MISSING)
    return region_colors, domain_colors


def _match_colors(
    free: np.ndarray, fixed: np.ndarray, names: list[str], colors: dict[str, str]
) -> dict[str, str]:
    """Return colours of the names in ``free``, each that of its pair in ``fixed``."""
    both = free.astype(bool) & fixed.astype(bool)
    shared = pd.crosstab(free[both], fixed[both]).reindex(
        index=names, columns=list(colors), fill_value=0
    )
    pairs = zip(*linear_sum_assignment(-shared.to_numpy()), strict=True)
    matched = {names[i]: colors[shared.columns[j]] for i, j in pairs if shared.iat[i, j] > 0}
    unused = unused_colors(colors.values())
    return {name: matched[name] if name in matched else next(unused) for name in names}


def _ari(predicted: np.ndarray, known: np.ndarray) -> str:
    both = predicted.astype(bool) & known.astype(bool)
    return f"  (ARI {adjusted_rand_score(known[both], predicted[both]):.2f})" if both.any() else ""
