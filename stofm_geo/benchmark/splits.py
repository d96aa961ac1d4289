"""Splits by patients, by blocks of tissue or, to show how they leak, by random cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._names import read_names
from stofm_geo.benchmark.datasets import Slices
from stofm_geo.benchmark.problems import GROUP, LABEL, Problem
from stofm_geo.tasks.splits import contiguous_blocks, folds

_FOLDS, _RANDOM_TEST = 3, 0.2
_MIN_CELLS = 500  # of a slice that is split into blocks


def without_labels(adata: AnnData, rows: np.ndarray | None = None) -> AnnData:
    """Return a copy of a slice, or of ``rows``, with counts, positions and groups only."""
    adata = adata if rows is None else adata[rows]
    obs = pd.DataFrame({GROUP: adata.obs[GROUP].astype(str)}, index=adata.obs_names)
    out = AnnData(adata.X.copy(), obs=obs, var=pd.DataFrame(index=adata.var_names))
    out.obsm["spatial"] = np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2].copy()
    return out


def with_labels(adata: AnnData, label: np.ndarray, rows: np.ndarray | None = None) -> AnnData:
    """Return :func:`without_labels` with ``label`` ``[n]`` in ``obs``, ``None`` if unknown."""
    out = without_labels(adata, rows)
    out.obs[LABEL] = pd.Series(label if rows is None else label[rows], out.obs_names, dtype=object)
    return out


def labels_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the labels as strings ``[n]``, ``None`` where missing."""
    return read_names(adata.obs[key])


def leave_group_out(slices: Slices, key: str, group: str) -> tuple[Problem, list[np.ndarray]]:
    """Hold out all slices of a group; return the problem and the labels of the test slices."""
    inside = {name: adata.obs[GROUP].iloc[0] == group for name, adata in slices.items()}
    shared = _shared(list(slices.values()))
    slices = {name: adata[:, shared] for name, adata in slices.items()}
    train = [with_labels(p, labels_of(p, key)) for name, p in slices.items() if not inside[name]]
    test = [p for name, p in slices.items() if inside[name]]
    return _finish(
        train, [without_labels(p) for p in test], [labels_of(p, key) for p in test], leak_free=True
    )


def leave_blocks_out(adata: AnnData, key: str, fold: int) -> tuple[Problem, list[np.ndarray]]:
    """Hold out a third of the blocks of 200 cells of a slice, as a separate slice."""
    label, block = labels_of(adata, key), contiguous_blocks(adata.obsm["spatial"][:, :2])
    adata = adata.copy()
    adata.obs[GROUP] = [f"block {b}" for b in block]
    test = folds(block, np.zeros(len(block), dtype=int), _FOLDS, seed=0)[fold]
    rows = np.flatnonzero(test)
    train = with_labels(adata, label, np.flatnonzero(~test))
    return _finish([train], [without_labels(adata, rows)], [label[rows]], leak_free=True)


def random_cells(adata: AnnData, key: str) -> tuple[Problem, list[np.ndarray]]:
    """Hold out a random fifth of a slice's cells: their neighbours are training cells.

    This is what many papers report. All cells are in the graph, test cells without labels.
    """
    label = labels_of(adata, key)
    test = np.random.default_rng(0).random(adata.n_obs) < _RANDOM_TEST
    hidden = np.array(None, dtype=object)
    train = with_labels(adata, np.where(test, hidden, label))
    known = test & (label != None)  # noqa: E711 - of an array
    return _finish([train], [without_labels(adata)], [label], leak_free=False, scored_mask=[known])


def all_splits(slices: Slices, key: str) -> Iterator[tuple[str, str, Callable]]:
    """Yield name, kind of held-out units and problem function of all splits of a data set.

    Splits are by group, if there are several groups, and by blocks and random cells of the first
    slice.
    """
    groups = {adata.obs[GROUP].iloc[0] for adata in slices.values()}
    if len(groups) > 1:
        for group in sorted(groups):
            yield group, "slices", lambda g=group: leave_group_out(slices, key, g)
    name, first = next(iter(slices.items()))
    if first.n_obs >= _MIN_CELLS:
        for fold in range(_FOLDS):
            yield f"{name}, blocks {fold}", "blocks", lambda f=fold: leave_blocks_out(first, key, f)
        yield f"{name}, random cells", "random cells", lambda: random_cells(first, key)


def _shared(adatas: list[AnnData]) -> pd.Index:
    genes = adatas[0].var_names
    for adata in adatas[1:]:
        genes = genes[genes.isin(adata.var_names)]
    return genes


def _finish(
    train: list[AnnData],
    test: list[AnnData],
    truth: list[np.ndarray],
    *,
    leak_free: bool,
    scored_mask: list[np.ndarray] | None = None,
) -> tuple[Problem, list[np.ndarray]]:
    names = sorted({name for adata in train for name in adata.obs[LABEL].dropna()})
    scored_mask = scored_mask or [
        np.array([value is not None for value in label]) for label in truth
    ]
    return Problem("classes", train, test, names, scored_mask, leak_free), truth
