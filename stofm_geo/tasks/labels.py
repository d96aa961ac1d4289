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

    Equal whole numbers are one class whether stored as integers, floats or text; missing values are
    defined by :func:`stofm_geo._names.read_names`.

    Args:
        adata: AnnData with labels.
        key: Column of ``obs``.
        name: Name of ``adata`` in messages.

    Raises:
        KeyError: The column is missing.
        TypeError: ``adata`` is not an AnnData.
        ValueError: No cell has a label.
    """
    check_anndata(adata, name)
    if key not in adata.obs:
        raise KeyError(f"{name}: obs has no {key!r} (labels); it has {listed(adata.obs)}")
    labels = read_names(adata.obs[key], f"{name}: obs[{key!r}]")
    if pd.api.types.is_float_dtype(adata.obs[key]) and (adata.obs[key].dropna() % 1 != 0).any():
        warnings.warn(
            f"{name}: obs[{key!r}] holds fractional numbers, each of which becomes a class; "
            "name a column of classes, or bin the values (pandas.cut)",
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
        ValueError: There is only one label, or one is reserved for uncertain cells.
    """
    classes = sorted({label for values in labels for label in values if label is not None})
    if len(classes) < 2:
        raise ValueError(
            f"obs[{key!r}] has only one label, {classes[0]!r}; at least two are needed"
        )
    by_case = pd.Series(classes).groupby(pd.Series(classes).str.lower()).agg(list)
    if len(alike := [names for names in by_case if len(names) > 1]):
        warnings.warn(
            f"obs[{key!r}] has labels that differ only in case "
            f"({preview(' and '.join(map(repr, names)) for names in alike)}); they are treated as "
            "different classes",
            stacklevel=3,
        )
    if Keys.UNASSIGNED in classes:
        raise ValueError(
            f"obs[{key!r}] has a label {Keys.UNASSIGNED!r}, which is the label of "
            "uncertain cells; leave those cells without a label (NaN), or rename it"
        )
    return classes


def training_labels(
    adatas: Sequence[AnnData], names: Sequence[str], key: str
) -> tuple[list[np.ndarray], list[str]]:
    """Return the labels of each AnnData and the classes.

    Args:
        adatas: AnnData with labels.
        names: Name of each AnnData in messages.
        key: Column of ``obs``.

    Raises:
        KeyError, TypeError: As :func:`read_labels`.
        ValueError: As :func:`read_labels` and :func:`classes_of`, or there are more than half as
            many classes as labelled cells.
    """
    labels = [read_labels(adata, key, name) for adata, name in zip(adatas, names, strict=True)]
    classes = classes_of(labels, key)
    cells = sum(int(pd.notna(values).sum()) for values in labels)
    if len(classes) > cells / 2:
        raise ValueError(
            f"obs[{key!r}] has {len(classes)} different labels for {cells} cells "
            f"({preview(classes)}); name a column of classes that cells share"
        )
    return labels, classes


def codes_of(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Return the index of each label in ``classes``, ``[n]`` int64; -1 if missing or unknown."""
    return pd.Index(classes).get_indexer(labels).astype(np.int64)


def balanced(codes: np.ndarray, count: int) -> np.ndarray:
    """Return balanced class weights ``[count]``; 0 for a class without cells."""
    cells = np.bincount(codes, minlength=count)
    return len(codes) / (np.count_nonzero(cells) * np.maximum(cells, 1)) * (cells > 0)


def unknown(labels: np.ndarray, classes: list[str]) -> list[str]:
    """Return the labels that are not among ``classes``, sorted."""
    return sorted({label for label in labels if label is not None} - set(classes))


def unknown_labels_message(names: list[str], name: str) -> str:
    """Return the message about :func:`unknown` labels."""
    return (
        f"{name}: {len(names)} of the labels are not classes of the model ({preview(names)}); "
        "their cells count as wrong"
    )
