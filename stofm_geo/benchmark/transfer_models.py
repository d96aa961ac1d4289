"""Models that predict labels of one study from those of another with other genes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from stofm_geo import SToFM
from stofm_geo.benchmark.baselines import neighbour_averages, standardised
from stofm_geo.benchmark.graphs import COMPONENTS
from stofm_geo.benchmark.problems import LABEL, Problem
from stofm_geo.benchmark.scoring import logs
from stofm_geo.benchmark.stofm_models import untrained
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks import fine_tune
from stofm_geo.tasks.annotation.probe import choose, fit_probe
from stofm_geo.tasks.splits import folds, tissue_groups

Probabilities = Callable[[Problem, int], np.ndarray]
_ROUNDS = 100  # of expectation maximisation


def solve(
    problem: Problem, seed: int, probabilities: Probabilities, shift: bool
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Predict the most probable label.

    Args:
        problem: Problem of kind ``"transfer"``.
        seed: Random seed.
        probabilities: Function from problem and seed to ``[n, C]``, for classes equally frequent.
        shift: Whether to estimate the frequencies of the classes in the test slice.
    """
    found = probabilities(problem, seed)
    if shift:
        found = found * class_frequencies(found)
    return [np.array(problem.names, dtype=object)[found.argmax(axis=1)]], {}


def class_frequencies(probability: np.ndarray) -> np.ndarray:
    """Return the frequencies of the classes that explain unlabelled cells best, ``[C]``.

    Expectation maximisation (Saerens et al. 2002, doi:10.1162/089976602753284446).

    Args:
        probability: Probabilities ``[n, C]`` for classes equally frequent.
    """
    frequency = np.full(probability.shape[1], 1 / probability.shape[1])
    for _ in range(_ROUNDS):
        posterior = probability * frequency
        frequency = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
    return frequency


def shared_genes(problem: Problem, seed: int, neighbours: bool, harmony: bool) -> np.ndarray:
    """Fit a logistic regression to principal components of the genes that both studies have.

    Features are standardised within each study.

    Args:
        problem: Problem of kind ``"transfer"``.
        seed: Random seed of Harmony.
        neighbours: Whether to add means over neighbours to the components.
        harmony: Whether to integrate the components of both studies by Harmony.
    """
    (train,), (test,) = problem.train, problem.test
    genes = train.var_names.intersection(test.var_names)
    slices = [adata[:, genes].copy() for adata in (train, test)]
    pca = PCAFeatures(COMPONENTS).fit(slices)
    parts = [pca.transform(adata) for adata in slices]
    if harmony:
        parts = _harmonised([standardised(x) for x in parts], seed)
    if neighbours:
        pairs = zip(parts, slices, strict=True)
        parts = [neighbour_averages(x, adata.obsm["spatial"]) for x, adata in pairs]
    known, new = (standardised(x) for x in parts)
    y = _codes(problem)
    groups = np.concatenate(tissue_groups([train.obsm["spatial"]]))
    count = len(problem.names)
    strength = choose(known, y, count, folds(groups, y, 4, seed=0), seed=0).strength
    head = fit_probe(known[y >= 0], y[y >= 0], count, strength)
    return softmax(head.logits(new), axis=1)


def nearest_centroid(problem: Problem, seed: int) -> np.ndarray:
    """Correlate cells with the mean of each class, over standardised logs of the shared genes."""
    (train,), (test,) = problem.train, problem.test
    genes = train.var_names.intersection(test.var_names)
    every = np.arange(len(genes))
    known, new = (standardised(logs(adata[:, genes].X, every)) for adata in (train, test))
    y = _codes(problem)
    centroids = np.stack([known[y == k].mean(axis=0) for k in range(len(problem.names))])
    pairs = [
        (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + 1e-9)
        for x in (new, centroids)
    ]
    return softmax(pairs[0] @ pairs[1].T / np.sqrt(len(genes)), axis=1)


def stofm(problem: Problem, seed: int, make: Callable[[Problem, int], SToFM]) -> np.ndarray:
    """Fine-tune a panel model to the labels as a user would.

    Args:
        problem: Problem of kind ``"transfer"``.
        seed: Random seed.
        make: Function from problem and seed to the model.
    """
    model = make(problem, seed)
    level = problem.label_level
    annotator = fine_tune(
        model, [problem.train[0].copy()], LABEL, task=level, seed=seed, progress=False
    )
    found = annotator.probabilities(problem.test[0].copy())
    order = [annotator.classes.index(name) for name in problem.names]
    return np.nan_to_num(found[:, order], nan=1 / len(order))


def fitted_to_both(problem: Problem, seed: int) -> SToFM:
    """Fit a panel model to both slices, without labels."""
    slices = [adata.copy() for adata in (*problem.train, *problem.test)]
    return SToFM(encoder="panel").fit(slices, seed=seed, progress=False)


def mini(problem: Problem, seed: int) -> SToFM:
    """Return the model that is installed with the library."""
    return SToFM.from_pretrained("stofm-geo-mini")


def untrained_mini(problem: Problem, seed: int) -> SToFM:
    """Return the model that is installed with the library, before its training."""
    return untrained(mini(problem, seed), seed)


def _harmonised(parts: list[np.ndarray], seed: int) -> list[np.ndarray]:
    import harmonypy

    frame = pd.DataFrame({"study": np.repeat(["train", "test"], [len(x) for x in parts])})
    options = {"random_state": seed, "verbose": False, "ncores": 1}
    found = harmonypy.run_harmony(np.concatenate(parts), frame, ["study"], **options)
    return np.split(found.Z_corr, [len(parts[0])])


def _codes(problem: Problem) -> np.ndarray:
    """Return the class of each training cell, -1 where unknown."""
    return pd.Categorical(problem.train[0].obs[LABEL], problem.names).codes.astype(int)


PREDICTORS: dict[str, tuple[Probabilities, bool, str | None]] = {
    "nearest centroid": (nearest_centroid, False, None),
    "shared-gene PCA": (partial(shared_genes, neighbours=False, harmony=False), False, None),
    "shared-gene averages": (partial(shared_genes, neighbours=True, harmony=False), False, None),
    "shared-gene PCA + Harmony": (
        partial(shared_genes, neighbours=False, harmony=True),
        True,
        "harmonypy",
    ),
    "shared-gene averages + Harmony": (
        partial(shared_genes, neighbours=True, harmony=True),
        True,
        "harmonypy",
    ),
    "SToFM (panel)": (partial(stofm, make=fitted_to_both), True, None),
    "stofm-geo-mini (probe)": (partial(stofm, make=mini), True, None),
    "stofm-geo-mini untrained (probe)": (partial(stofm, make=untrained_mini), True, None),
}
# Those that are tried with the frequencies of classes in the test slice, too.
SHIFTED = ("shared-gene averages", "shared-gene averages + Harmony", "stofm-geo-mini (probe)")
