"""Domains of new slices by the names of an earlier run."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stofm_geo._anndata_checks import numbered
from stofm_geo._colors import default_colors, natural_sort
from stofm_geo._names import read_names
from stofm_geo._validation import listed


def read_reference(adatas: list[AnnData], key: str) -> tuple[dict[str, str], list[np.ndarray]]:
    """Read the domains of an earlier run.

    Args:
        adatas: With the domains in ``obs[key]``, and their colours in ``uns`` if it has them.
        key: Column of ``obs``.

    Returns:
        The colour of each domain by its name, in the order of the categories, and the number of
        each cell's domain, ``[n]`` each; -1 where it has none.

    Raises:
        KeyError: There is no such column.
        ValueError: No cell has a domain.
    """
    colors: dict[str, str] = {}
    columns = []
    for one, name in zip(adatas, numbered("reference", len(adatas)), strict=True):
        if key not in one.obs:
            raise KeyError(
                f"{name}: obs has no {key!r} (domains); it has {listed(one.obs)}; run tl.domains "
                "on it first, or name its column with key_added"
            )
        column = one.obs[key].astype("category")
        names = [name or "" for name in read_names(column.cat.categories)]
        columns.append(read_names(column))
        stored = one.uns.get(f"{key}_colors")
        if stored is not None and len(stored) >= len(names):
            colors = {**dict(zip(names, map(str, stored), strict=False)), **colors}
    names = natural_sort(name or "" for column in columns for name in column)
    if not names:
        raise ValueError(f"reference: no cell has a domain in obs[{key!r}]")
    number = {name: i for i, name in enumerate(names)}
    codes = [np.array([number.get(name, -1) for name in column]) for column in columns]
    free = default_colors(names)
    return {name: colors.get(name, free[name]) for name in names}, codes


def classify(parts: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the label of each row, ``[n]``; rows whose label is -1 get the likeliest one.

    The others teach a Gaussian for each label, with one covariance for all (linear discriminant
    analysis): the mixture of :func:`~stofm_geo.tl.domains`, whose members are known.

    Args:
        parts: Principal components, ``[n, D]``.
        label: From 0; -1 where it is asked for, ``[n]``.
    """
    known = label >= 0
    if len(np.unique(label[known])) == 1:
        return np.full(len(label), label[known][0])
    model = LinearDiscriminantAnalysis().fit(parts[known], label[known])
    return np.where(known, label, model.predict(parts))
