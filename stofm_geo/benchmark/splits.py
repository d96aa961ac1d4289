"""What is held out: patients, blocks of tissue, or, to show what that hides, cells at random."""

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
_LEAST = 500  # cells of a slice whose blocks hold enough of each label


def bare(part: AnnData, rows: np.ndarray | None = None) -> AnnData:
    """Return counts, positions and group of a slice, or some of its cells; no labels."""
    part = part if rows is None else part[rows]
    obs = pd.DataFrame({GROUP: part.obs[GROUP].astype(str)}, index=part.obs_names)
    out = AnnData(part.X.copy(), obs=obs, var=pd.DataFrame(index=part.var_names))
    out.obsm["spatial"] = np.asarray(part.obsm["spatial"], dtype=np.float64)[:, :2].copy()
    return out


def labelled(part: AnnData, label: np.ndarray, rows: np.ndarray | None = None) -> AnnData:
    """Return the same with labels ``[n]`` (``None`` for none), those of ``rows``."""
    out = bare(part, rows)
    out.obs[LABEL] = pd.Series(label if rows is None else label[rows], out.obs_names, dtype=object)
    return out


def labels_of(part: AnnData, key: str) -> np.ndarray:
    """Labels as strings, ``None`` where there is none, ``[n]``."""
    return read_names(part.obs[key])


def held_out(slices: Slices, key: str, group: str) -> tuple[Problem, list[np.ndarray]]:
    """Slices of one group from those of all others; the problem, and the labels of ``test``."""
    inside = {name: part.obs[GROUP].iloc[0] == group for name, part in slices.items()}
    shared = _shared(list(slices.values()))
    slices = {name: part[:, shared] for name, part in slices.items()}
    train = [labelled(p, labels_of(p, key)) for name, p in slices.items() if not inside[name]]
    test = [p for name, p in slices.items() if inside[name]]
    return _finish(
        train, [bare(p) for p in test], [labels_of(p, key) for p in test], leak_free=True
    )


def in_blocks(part: AnnData, key: str, fold: int) -> tuple[Problem, list[np.ndarray]]:
    """Hold out a third of a slice's blocks of 200 cells, as a slice of their own."""
    label, block = labels_of(part, key), contiguous_blocks(part.obsm["spatial"][:, :2])
    part = part.copy()
    part.obs[GROUP] = [f"block {b}" for b in block]
    test = folds(block, np.zeros(len(block), dtype=int), _FOLDS, seed=0)[fold]
    rows = np.flatnonzero(test)
    train = labelled(part, label, np.flatnonzero(~test))
    return _finish([train], [bare(part, rows)], [label[rows]], leak_free=True)


def at_random(part: AnnData, key: str) -> tuple[Problem, list[np.ndarray]]:
    """Hold out a random fifth of a slice's cells: their neighbours are training cells.

    What many papers report. All cells are in the graph, those of the test without their label.
    """
    label = labels_of(part, key)
    test = np.random.default_rng(0).random(part.n_obs) < _RANDOM_TEST
    hidden = np.array(None, dtype=object)
    train = labelled(part, np.where(test, hidden, label))
    known = test & (label != None)  # noqa: E711 - of an array
    return _finish([train], [bare(part)], [label], leak_free=False, scored_mask=[known])


def each(slices: Slices, key: str) -> Iterator[tuple[str, str, Callable]]:
    """All splits of a data set by name: groups, blocks and random cells of its first slice.

    Groups where there are several. Yields names, what kind of thing is held out, and functions
    that make the problem.
    """
    groups = {part.obs[GROUP].iloc[0] for part in slices.values()}
    if len(groups) > 1:
        for group in sorted(groups):
            yield group, "slices", lambda g=group: held_out(slices, key, g)
    name, first = next(iter(slices.items()))
    if first.n_obs >= _LEAST:
        for fold in range(_FOLDS):
            yield f"{name}, blocks {fold}", "blocks", lambda f=fold: in_blocks(first, key, f)
        yield f"{name}, random cells", "random cells", lambda: at_random(first, key)


def _shared(parts: list[AnnData]) -> pd.Index:
    genes = parts[0].var_names
    for part in parts[1:]:
        genes = genes[genes.isin(part.var_names)]
    return genes


def _finish(
    train: list[AnnData],
    test: list[AnnData],
    truth: list[np.ndarray],
    *,
    leak_free: bool,
    scored_mask: list[np.ndarray] | None = None,
) -> tuple[Problem, list[np.ndarray]]:
    names = sorted({name for part in train for name in part.obs[LABEL].dropna()})
    scored_mask = scored_mask or [np.array([one is not None for one in label]) for label in truth]
    return Problem("classes", train, test, names, scored_mask, leak_free), truth
