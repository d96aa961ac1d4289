"""Confusion matrix of known and predicted labels."""

from __future__ import annotations

import os
from textwrap import shorten
from typing import Any

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix

from stofm_geo._colors import natural_sort
from stofm_geo.pl._sheet import DPI, check_picture, write
from stofm_geo.pl.predicted import compared

_LEGIBLE = 24  # maximum number of classes whose fractions are written into the fields
# Above this number of classes, fields are as small as legible names allow, at a lower resolution,
# since rendering takes seconds.
_MANY, _COARSE = 60, 120


def confusion(
    adata: ad.AnnData,
    key: str,
    label_key: str,
    *,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Draw the confusion matrix, normalised by row.

    Only cells with both a label and a prediction count. A row is a known class, and sums to 1.

    Args:
        adata: Cells.
        key: Column of ``obs`` with the predictions.
        label_key: Column of ``obs`` with the known labels.
        title: Heading; None gives the number of cells.
        save: As in :func:`spatial`.

    Returns:
        The Axes.

    Raises:
        KeyError: A key is not in ``adata.obs``.
        ValueError: No cell has both a label and a prediction, or the extension of ``save`` is
            unknown.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import datasets, pl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.obs["guess"] = "L1"
        >>> ax = pl.confusion(adata, "guess", "region")
        >>> ax.get_title(), ax.get_xlabel()
        ('200 cells', 'predicted: guess')
    """
    path = None if save is None else check_picture(save)
    known, predictions, both = compared(adata, key, label_key)
    known, predictions = known[both], predictions[both]
    rows, columns = natural_sort(known), natural_sort([*known, *predictions])
    fraction = confusion_matrix(known, predictions, labels=columns, normalize="true")
    fraction = fraction[[columns.index(name) for name in rows]]
    legible = len(columns) <= _LEGIBLE
    field = 0.42 if legible else 0.24 if len(columns) <= _MANY else 0.11  # inches
    # Whatever the user's rcParams say.
    figure = Figure(dpi=DPI, layout="none")  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    # Faster than imshow on large pages.
    edges = (np.arange(len(names) + 1) - 0.5 for names in (columns, rows))
    image = ax.pcolormesh(*edges, fraction, cmap="Blues", vmin=0, vmax=1)
    ax.invert_yaxis()
    if legible:
        for (i, j), value in np.ndenumerate(fraction):
            if value >= 0.005:
                ink = "white" if value > 0.6 else "0.15"
                text = f"{value:.2f}".lstrip("0")
                ax.text(j, i, text, ha="center", va="center", size=8, color=ink)
    counts = {name: int((known == name).sum()) for name in rows}
    size = 9 if legible else 7 if len(columns) <= _MANY else 6
    ax.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, size=size)
    ax.set_yticks(
        range(len(rows)), [f"{_short(name)} ({counts[name]})" for name in rows], size=size
    )
    ax.set_xlabel(f"predicted: {key}", size=10)
    ax.set_ylabel(f"known: {label_key} (cells)", size=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    cax = _lay_out(ax, field * len(columns), field * len(rows))
    bar = figure.colorbar(image, cax=cax, label="fraction of the known class")
    bar.outline.set_visible(False)
    cax.tick_params(labelsize=8, length=2)
    heading = f"{len(known)} cells" if title is None else title
    ax.set_title(heading, size=11)
    # A tight bounding box would require drawing twice.
    write(ax, path, dpi=DPI if len(columns) <= _MANY else _COARSE, bbox_inches=None)
    return ax


def _lay_out(ax: Axes, width: float, height: float) -> Axes:
    """Set the size of ``ax`` in inches, leave room for labels, and return axes for a colour bar.

    A layout engine would measure hundreds of labels several times.
    """
    figure: Any = ax.figure
    renderer = figure.canvas.get_renderer()

    def room(labels: list[Text], side: str) -> float:
        longest = sorted(labels, key=lambda label: len(label.get_text()))[-5:]
        boxes = [label.get_window_extent(renderer) for label in longest]
        return max(getattr(box, side) for box in boxes) / figure.dpi

    left = room(ax.get_yticklabels(), "width") + 0.45
    bottom = room(ax.get_xticklabels(), "height") + 0.45
    right, top = 1.0, 0.4
    page = left + width + right, max(bottom + height + top, 2.4)
    figure.set_size_inches(page)
    x, y = page
    ax.set_position((left / x, bottom / y, width / x, height / y))
    bar_height = min(max(0.6 * height, 1.0), 4.0)
    middle = min(max(bottom + height / 2, 1.1), y - 1.1)  # the label is two inches long
    bar_box = (left + width + 0.2) / x, (middle - bar_height / 2) / y, 0.15 / x, bar_height / y
    return figure.add_axes(bar_box)


def _short(name: str) -> str:
    return shorten(name, 32, placeholder="…")
