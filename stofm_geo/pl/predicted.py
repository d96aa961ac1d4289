"""Plot of known and predicted labels and of their differences."""

from __future__ import annotations

import os
from dataclasses import replace

import anndata as ad
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from stofm_geo._colors import natural_sort
from stofm_geo._keys import Keys
from stofm_geo.pl._categories import Palette, chosen_colors, column_of, names_of, store_colors
from stofm_geo.pl._paint import MISSING, Paint, paint_names
from stofm_geo.pl._sheet import Sheet, cells_by_slice, check_picture, micrometres, write

# Correct cells are grey, which is drawn first, so that they hide no wrong cells.
_RIGHT, _WRONG, _OPEN = MISSING, "#1a1a1a", "#f2f2f2"


def predicted(
    adata: ad.AnnData,
    key: str,
    label_key: str,
    *,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    size: float | None = None,
    palette: Palette = None,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Draw known labels, predicted labels and wrong cells beside each other.

    Cells without a label or a prediction count neither as right nor as wrong, and are left out of
    accuracy and macro-F1 (over the known classes).

    Args:
        adata: Cells, coordinates in ``obsm[spatial_key]``.
        key: Column of ``obs`` with the predictions.
        label_key: Column of ``obs`` with the known labels.
        spatial_key: As in :func:`spatial`.
        slice_key: As in :func:`spatial`.
        size: As in :func:`spatial`.
        palette: Colours by name, or in the order of the sorted names of both columns; None takes a
            colour-blind-friendly list.
        title: Heading; None gives the compared columns, accuracy and macro-F1.
        save: As in :func:`spatial`.

    Returns:
        Array of Axes, ``[n_slices, 3]``: known, predicted, wrong.

    Raises:
        KeyError: A key is not in ``adata``, or ``palette`` lacks a name.
        ValueError: As in :func:`spatial`, or no cell has both a label and a prediction.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import datasets, pl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obs["guess"] = adata.obs["region"]
        >>> axes = pl.predicted(adata, "guess", "region")
        >>> [ax.get_title() for ax in axes[0]]
        ['known', 'predicted', '0% wrong']
    """
    path = None if save is None else check_picture(save)
    slices = cells_by_slice(adata, spatial_key, slice_key)
    known, predictions, both = compared(adata, key, label_key)
    colors = chosen_colors([adata], [label_key, key], palette)
    for column in (label_key, key):
        store_colors(adata, column, colors, MISSING)
    wrong = both & (known != predictions)
    marks = np.where(both, np.where(wrong, "wrong", "right"), "neither").astype(object)
    marking = {"wrong": _WRONG, "right": _RIGHT}
    if not both.all():
        marking["neither"] = _OPEN
    names = paint_names(known, f"{label_key} and {key}", colors)
    present = {*known, *predictions}
    listed = {name: color for name, color in colors.items() if name in present}
    names = replace(names, legend={**listed, **(names.legend or {})})
    # One legend for both columns, which share their colours.
    predictions_paint = Paint("", paint_names(predictions, "", colors).rgba)
    paints = [names, predictions_paint, paint_names(marks, key, marking)]
    f1 = f1_score(
        known[both],
        predictions[both],
        labels=natural_sort(known[both]),
        average="macro",
        zero_division=0,
    )
    heading = (
        f"{label_key} and {key}: accuracy {accuracy_score(known[both], predictions[both]):.2f}, "
        f"macro-F1 {f1:.2f}"
    )
    sheet = Sheet(slices, 3, heading if title is None else title)
    um = micrometres(adata)
    for panels, (name, cells) in zip(sheet.axes, slices.items(), strict=True):
        for panel, paint in zip(panels, paints, strict=True):
            sheet.draw(panel, cells, paint.rgba, size, um)
        n_compared = int(both[cells.rows].sum())
        score = (
            f"{wrong[cells.rows].sum() / n_compared:.0%} wrong" if n_compared else "not compared"
        )
        titles = (f"{name}  known" if name else "known", "predicted", score)
        for panel, text in zip(panels, titles, strict=True):
            panel.set_title(text, fontsize=11)
    sheet.finish(paints)
    write(sheet.axes[0, 0], path)
    return sheet.axes


def compared(
    adata: ad.AnnData, key: str, label_key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return known and predicted names ``[n]``, empty if missing, and the mask of cells with both.

    Raises:
        KeyError: A column is not in ``obs``.
        ValueError: No cell has both.
    """
    known, predictions = (names_of(column_of(adata, column)) for column in (label_key, key))
    both = known.astype(bool) & predictions.astype(bool)
    if not both.any():
        raise ValueError(
            f"no cell has both a label in obs[{label_key!r}] and a prediction in obs[{key!r}]"
        )
    return known, predictions, both
