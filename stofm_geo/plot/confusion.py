"""What is taken for what: a confusion matrix."""

from __future__ import annotations

import os
from textwrap import shorten

import anndata as ad
import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from stofm_geo._colors import natural
from stofm_geo.plot._sheet import check_picture, plain_axes, write
from stofm_geo.plot.predicted import compared

_LEGIBLE = 24  # classes up to which shares are written into the fields


def confusion(
    adata: ad.AnnData,
    key: str,
    label_key: str,
    *,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> Axes:
    """Draw which share of each class was predicted as which.

    Scikit-learn's confusion matrix over the cells that have both a label and a prediction; a row
    is a known class, and sums to 1.

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
    """
    path = None if save is None else check_picture(save)
    known, guess, both = compared(adata, key, label_key)
    known, guess = known[both], guess[both]
    rows, columns = natural(known), natural([*known, *guess])
    share = confusion_matrix(known, guess, labels=columns, normalize="true")
    share = share[[columns.index(name) for name in rows]]
    field = 0.42 if len(columns) <= _LEGIBLE else 0.24  # inches
    ax = plain_axes(2.6 + field * len(columns), 1.8 + field * len(rows))[0]
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    if len(columns) <= _LEGIBLE:
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.005:
                ink = "white" if value > 0.6 else "0.15"
                text = f"{value:.2f}".lstrip("0")
                ax.text(j, i, text, ha="center", va="center", size=8, color=ink)
    counts = {name: int((known == name).sum()) for name in rows}
    size = 9 if len(columns) <= _LEGIBLE else 7
    ax.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, size=size)
    ax.set_yticks(
        range(len(rows)), [f"{_short(name)} ({counts[name]})" for name in rows], size=size
    )
    ax.set_xlabel(f"predicted: {key}", size=10)
    ax.set_ylabel(f"known: {label_key} (cells)", size=10)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, label="share of the known class")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    heading = f"{len(known)} cells" if title is None else title
    ax.set_title(heading, size=11)
    write(ax, path)
    return ax


def _short(name: str) -> str:
    return shorten(name, 32, placeholder="…")
