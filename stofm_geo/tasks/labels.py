"""Labels of cells: reading from ``obs``, class indices and class weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata
from stofm_geo._keys import Keys
from stofm_geo._names import read_names
from stofm_geo._validation import listed, preview


def read_labels(adata: AnnData, key: str, name: str = "AnnData") -> np.ndarray:
    """Return the labels in ``obs[key]`` as objects ``[n]``, ``None`` where one is missing.

    Whole numbers are one class whether they are integers, floats or text; what counts as missing
    tells :func:`stofm_geo._names.read_names`.

    Args:
        adata: With labels.
        key: Column of ``obs``.
        name: What messages call ``adata``.

    Raises:
        KeyError: There is no such column.
        TypeError: ``adata`` is no AnnData.
        ValueError: No cell has a label.
    """
    check_anndata(adata, name)
    if key not in adata.obs:
        raise KeyError(f"{name}: obs has no {key!r} (labels); it has {listed(adata.obs)}")
    labels = read_names(adata.obs[key], f"{name}: obs[{key!r}]")
    if pd.api.types.is_float_dtype(adata.obs[key]) and (adata.obs[key].dropna() % 1 != 0).any():
        warnings.warn(
            f"{name}: obs[{key!r}] holds numbers with fractions, each of which is taken for a "
            "class; name a column of classes, or cut it into some (pandas.cut)",
            stacklevel=3,
        )
    if not labels.astype(bool).any():
        raise ValueError(
            f"{name}: obs[{key!r}] is missing for all {len(labels)} cells; "
            "name a column with labels"
        )
    return labels


def classes_of(labels: Sequence[np.ndarray], key: str) -> list[str]:
    """Return the distinct labels, sorted.

    Raises:
        ValueError: There is one alone, or one has the name that is kept for uncertain cells.
    """
    found = sorted({label for part in labels for label in part if label is not None})
    if len(found) < 2:
        raise ValueError(
            f"obs[{key!r}] has one label alone, {found[0]!r}; two or more are needed to tell apart"
        )
    of_case = pd.Series(found).groupby(pd.Series(found).str.lower()).agg(list)
    if len(alike := [names for names in of_case if len(names) > 1]):
        warnings.warn(
            f"obs[{key!r}] has labels that differ in upper and lower case alone "
            f"({preview(' and '.join(map(repr, names)) for names in alike)}), and are taken for "
            "different classes",
            stacklevel=3,
        )
    if Keys.UNASSIGNED in found:
        raise ValueError(
            f"obs[{key!r}] has a label {Keys.UNASSIGNED!r}, which is the label of "
            "uncertain cells; leave those cells without a label (NaN), or rename it"
        )
    return found


def training_labels(
    adatas: Sequence[AnnData], names: Sequence[str], key: str
) -> tuple[list[np.ndarray], list[str]]:
    """Return the labels of each AnnData and the classes.

    Args:
        adatas: With labels.
        names: What messages call each of them.
        key: Column of ``obs``.

    Raises:
        KeyError, TypeError: As :func:`read_labels`.
        ValueError: As there and :func:`classes_of`; or most labels are of one cell alone.
    """
    labels = [read_labels(one, key, name) for one, name in zip(adatas, names, strict=True)]
    classes = classes_of(labels, key)
    cells = sum(int(pd.notna(part).sum()) for part in labels)
    if len(classes) > cells / 2:
        raise ValueError(
            f"obs[{key!r}] has {len(classes)} different labels for {cells} cells "
            f"({preview(classes)}); name a column of classes, which cells share"
        )
    return labels, classes


def codes_of(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the index of each label in ``classes``, ``[n]`` int64; -1 if missing or not there."""
    return pd.Index(classes).get_indexer(labels).astype(np.int64)


def balanced(codes: np.ndarray, count: int) -> np.ndarray:
    """Return balanced class weights ``[count]``; 0 for a class without cells."""
    found = np.bincount(codes, minlength=count)
    return len(codes) / (np.count_nonzero(found) * np.maximum(found, 1)) * (found > 0)


def unknown(labels: np.ndarray, classes: list[str]) -> list[str]:
    """Return the labels that are not among ``classes``, sorted."""
    return sorted({label for label in labels if label is not None} - set(classes))


def unknown_labels_message(names: list[str], name: str) -> str:
    """Return the message about :func:`unknown` labels."""
    return (
        f"{name}: the model was never shown {len(names)} of the labels ({preview(names)}); "
        "their cells count as wrong"
    )
