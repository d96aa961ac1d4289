"""Baselines: linear models on principal components, and common methods of each task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.optimize import nnls
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import NearestNeighbors

from stofm_geo.benchmark import molecule_models
from stofm_geo.benchmark.clusterings import components
from stofm_geo.benchmark.graphs import COMPONENTS, target_columns, training_data
from stofm_geo.benchmark.problems import LABEL, Problem
from stofm_geo.benchmark.scoring import logs
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks.annotation.probe import choose, fit_probe
from stofm_geo.tasks.deconvolution.poisson_mixture import to_shares
from stofm_geo.tasks.splits import folds, tissue_groups

Predictions = tuple[list[np.ndarray], dict[str, Any]]
_STRENGTHS = 10.0 ** np.arange(-1, 5)  # of ridge regression


def neighbour_averages(x: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """Return features, their means over 6 neighbours and doubled means over 18, ``[n, 3 F]``."""
    nearest = NearestNeighbors(n_neighbors=min(19, len(x))).fit(pos).kneighbors(pos)[1][:, 1:]
    return np.concatenate([x, x[nearest[:, :6]].mean(axis=1), 2 * x[nearest].mean(axis=1)], axis=1)


def standardised(x: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and standard deviation 1; constant ones are 0."""
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)


def linear(problem: Problem, seed: int, neighbours: bool, standardise: bool) -> Predictions:
    """Fit a linear model on principal components of the training slices, and predict.

    Classes are predicted by logistic regression, whose strength is chosen on held-out tissue;
    shares by ridge regression, clipped at 0; values and molecules by ridge regression. For vectors,
    the components themselves are returned.

    Args:
        problem: Problem of any kind.
        seed: Unused, since the model is deterministic.
        neighbours: Whether to add means over neighbours to the features.
        standardise: Whether to standardise features within each slice.
    """
    if problem.kind == "molecules":
        return molecule_models.linear(problem, seed, neighbours)
    train, targets, mean, scale = training_data(problem)
    pca = PCAFeatures(COMPONENTS).fit(train or problem.test)

    def features(adata: AnnData) -> np.ndarray:
        x = pca.transform(adata)
        x = neighbour_averages(x, adata.obsm["spatial"]) if neighbours else x
        return standardised(x) if standardise else x

    test = [features(adata) for adata in problem.test]
    if problem.kind == "vectors":
        return test, {}
    x, y = np.concatenate([features(adata) for adata in train]), np.concatenate(targets)
    if problem.kind != "classes":
        fit = RidgeCV(_STRENGTHS).fit(x, y)
        predicted = [fit.predict(values) * scale + mean for values in test]
        if problem.kind == "shares":
            predicted = [to_shares(values.clip(min=0)) for values in predicted]
        return predicted, {}
    groups = np.concatenate(tissue_groups([adata.obsm["spatial"] for adata in train]))
    names = problem.names
    strength = choose(x, y, len(names), folds(groups, y, 4, seed=0), seed=0).strength
    head = fit_probe(x[y >= 0], y[y >= 0], len(names), strength)
    logits = [head.logits(values) for values in test]
    return [np.array(names, dtype=object)[values.argmax(axis=1)] for values in logits], {
        "strength": strength
    }


LINEAR: dict[str, Callable[[Problem, int], Predictions]] = {
    "PCA": partial(linear, neighbours=False, standardise=False),
    "PCA (standardised)": partial(linear, neighbours=False, standardise=True),
    "neighbour-averaged PCA": partial(linear, neighbours=True, standardise=False),
    "neighbour-averaged PCA (standardised)": partial(linear, neighbours=True, standardise=True),
}


def least_squares(problem: Problem, seed: int) -> Predictions:
    """Fit proportions by non-negative least squares on the mean counts of the types (scipy)."""
    (cells,), (spots,) = problem.train, problem.test
    label, x = cells.obs[LABEL].to_numpy(), cells.X.toarray().astype(float)
    mean = np.stack([x[label == name].mean(axis=0) for name in problem.names])
    weights = np.stack([nnls(mean.T, y)[0] for y in spots.X.toarray().astype(float)])
    return [to_shares(weights)], {}


def flash_deconvolution(problem: Problem, seed: int) -> Predictions:
    """Run ``flashdeconv`` with its default settings."""
    import flashdeconv

    spots = problem.test[0].copy()
    flashdeconv.tl.deconvolve(spots, problem.train[0].copy(), LABEL, random_state=seed)
    predicted = pd.DataFrame(spots.obsm["flashdeconv"])
    return [predicted.reindex(columns=problem.names, fill_value=0.0).to_numpy()], {}


def neighbours(problem: Problem, seed: int, k: int, metric: str) -> Predictions:
    """Predict the mean of the ``k`` nearest cells of the reference.

    Args:
        problem: Problem of kind ``"values"``.
        seed: Unused, since the method is deterministic.
        k: Number of neighbours.
        metric: ``"cosine"`` of log-counts, or ``"euclidean"`` of their 30 principal components.
    """
    (cells,), (target,) = problem.train, problem.test
    shared = cells.var_names.get_indexer(target.var_names)
    reference_logs = logs(cells.X, shared)
    scale = float(np.median(np.asarray(cells.X[:, shared].sum(axis=1))))
    known, query = reference_logs[:, shared], logs(target.X, np.arange(target.n_vars), scale)
    if metric == "euclidean":
        known, query = np.split(components(np.concatenate([known, query])), [len(known)])
    nearest = NearestNeighbors(n_neighbors=k, metric=metric).fit(known).kneighbors(query)[1]
    y = reference_logs[:, target_columns(problem)]
    total = np.zeros((len(query), y.shape[1]))
    for column in nearest.T:  # one neighbour at a time: [n, k, G] would not fit in memory
        total += y[column]
    return [total / k], {}


def tangram(problem: Problem, seed: int) -> Predictions:
    """Map cell types to the slice by Tangram, with all shared genes and 500 epochs."""
    import tangram as tg

    (cells,), (target,) = problem.train, problem.test
    shared = cells.var_names.get_indexer(target.var_names)
    single = AnnData(logs(cells.X, shared).astype(np.float32), var=cells.var[[]])
    single.obs[LABEL] = pd.Categorical(cells.obs[LABEL].astype(str))
    space = AnnData(logs(target.X, np.arange(target.n_vars)).astype(np.float32))
    space.var_names = target.var_names
    tg.pp_adatas(single, space, genes=None)
    options = {"mode": "clusters", "cluster_label": LABEL, "num_epochs": 500, "random_state": seed}
    mapped = tg.map_cells_to_space(single, space, verbose=False, **options)
    predicted = tg.project_genes(mapped, single, cluster_label=LABEL).to_df()
    # Tangram lower-cases names, and drops genes without counts in the reference.
    names = [name.lower() for name in problem.names]
    return [predicted.reindex(columns=names, fill_value=0).to_numpy(dtype=float)], {}


def external_embedding(
    problem: Problem,
    seed: int,
    embed: Callable[[list[AnnData], int], list[np.ndarray]],
    settings: str,
) -> Predictions:
    """Embed with an external method (:mod:`stofm_geo.benchmark.external_methods`)."""
    return embed(problem.test, seed), {"settings": settings}
