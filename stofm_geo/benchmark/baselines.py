"""What a benchmark has to be ahead of: linear models on components, and each task's usual ways."""

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

from stofm_geo.benchmark.clusterings import components
from stofm_geo.benchmark.graphs import COMPONENTS, asked_genes, training
from stofm_geo.benchmark.problems import LABEL, Problem
from stofm_geo.benchmark.scoring import logs
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks.annotation.probe import choose, fit_probe
from stofm_geo.tasks.deconvolution.poisson_mixture import to_shares
from stofm_geo.tasks.splits import folds, tissue_groups

Answer = tuple[list[np.ndarray], dict[str, Any]]
_STRENGTHS = 10.0 ** np.arange(-1, 5)  # of the ridge


def averaged(x: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """Beside the means over a cell's 6 and, twice, its 18 nearest neighbours, ``[n, 3 F]``."""
    near = NearestNeighbors(n_neighbors=min(19, len(x))).fit(pos).kneighbors(pos)[1][:, 1:]
    return np.concatenate([x, x[near[:, :6]].mean(axis=1), 2 * x[near].mean(axis=1)], axis=1)


def linear(problem: Problem, seed: int, neighbours: bool, standardise: bool) -> Answer:
    """Principal components of the training slices, and a linear model on them.

    Logistic regression of classes, its strength chosen on held-out tissue; ridge regression of
    shares, negative ones set to 0, and of values. Of vectors, the components themselves.

    Args:
        problem: Any.
        seed: Not used: nothing is drawn.
        neighbours: Whether means over neighbours stand beside a cell's own.
        standardise: Whether each slice has mean 0 and variance 1.
    """
    parts, target, mean, scale = training(problem)
    pca = PCAFeatures(COMPONENTS).fit(parts or problem.test)

    def features(part: AnnData) -> np.ndarray:
        x = pca.transform(part)
        x = averaged(x, part.obsm["spatial"]) if neighbours else x
        return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9) if standardise else x

    test = [features(part) for part in problem.test]
    if problem.kind == "vectors":
        return test, {}
    x, y = np.concatenate([features(part) for part in parts]), np.concatenate(target)
    if problem.kind != "classes":
        fit = RidgeCV(_STRENGTHS).fit(x, y)
        found = [fit.predict(one) * scale + mean for one in test]
        if problem.kind == "shares":
            found = [to_shares(one.clip(min=0)) for one in found]
        return found, {}
    groups = np.concatenate(tissue_groups([part.obsm["spatial"] for part in parts]))
    names = problem.names
    strength = choose(x, y, len(names), folds(groups, y, 4, seed=0), seed=0).strength
    head = fit_probe(x[y >= 0], y[y >= 0], len(names), strength)
    logits = [one @ head.weight.numpy().T + head.bias.numpy() for one in test]
    return [np.array(names, dtype=object)[one.argmax(axis=1)] for one in logits], {
        "strength": strength
    }


LINEAR: dict[str, Callable[[Problem, int], Answer]] = {
    "PCA": partial(linear, neighbours=False, standardise=False),
    "PCA (standardised)": partial(linear, neighbours=False, standardise=True),
    "neighbour-averaged PCA": partial(linear, neighbours=True, standardise=False),
    "neighbour-averaged PCA (standardised)": partial(linear, neighbours=True, standardise=True),
}


def least_squares(problem: Problem, seed: int) -> Answer:
    """Non-negative least squares on the types' mean counts (scipy)."""
    (cells,), (spots,) = problem.train, problem.test
    label, x = cells.obs[LABEL].to_numpy(), cells.X.toarray().astype(float)
    mean = np.stack([x[label == name].mean(axis=0) for name in problem.names])
    found = np.stack([nnls(mean.T, y)[0] for y in spots.X.toarray().astype(float)])
    return [to_shares(found)], {}


def flash(problem: Problem, seed: int) -> Answer:
    """``flashdeconv``, as it comes."""
    import flashdeconv

    spots = problem.test[0].copy()
    flashdeconv.tl.deconvolve(spots, problem.train[0].copy(), LABEL, random_state=seed)
    found = pd.DataFrame(spots.obsm["flashdeconv"])
    return [found.reindex(columns=problem.names, fill_value=0.0).to_numpy()], {}


def neighbours(problem: Problem, seed: int, k: int, metric: str) -> Answer:
    """Predict the mean of the ``k`` nearest cells of the reference.

    Args:
        problem: Of genes.
        seed: Not used.
        k: How many.
        metric: ``"cosine"`` of log-counts, or ``"euclidean"`` of 30 principal components of them.
    """
    (cells,), (target,) = problem.train, problem.test
    shared = cells.var_names.get_indexer(target.var_names)
    there = logs(cells.X, shared)
    scale = float(np.median(np.asarray(cells.X[:, shared].sum(axis=1))))
    known, asked = there[:, shared], logs(target.X, np.arange(target.n_vars), scale)
    if metric == "euclidean":
        known, asked = np.split(components(np.concatenate([known, asked])), [len(known)])
    near = NearestNeighbors(n_neighbors=k, metric=metric).fit(known).kneighbors(asked)[1]
    y = there[:, asked_genes(problem)]
    found = np.zeros((len(asked), y.shape[1]))
    for column in near.T:  # a neighbour at a time: [n, k, G] would not fit
        found += y[column]
    return [found / k], {}


def tangram(problem: Problem, seed: int) -> Answer:
    """Tangram of cell types onto the slice, all shared genes, 500 epochs."""
    import tangram as tg

    (cells,), (target,) = problem.train, problem.test
    shared = cells.var_names.get_indexer(target.var_names)
    single = AnnData(logs(cells.X, shared).astype(np.float32), var=cells.var[[]])
    single.obs[LABEL] = pd.Categorical(cells.obs[LABEL].astype(str))
    space = AnnData(logs(target.X, np.arange(target.n_vars)).astype(np.float32))
    space.var_names = target.var_names
    tg.pp_adatas(single, space, genes=None)
    how = {"mode": "clusters", "cluster_label": LABEL, "num_epochs": 500, "random_state": seed}
    mapped = tg.map_cells_to_space(single, space, verbose=False, **how)
    found = tg.project_genes(mapped, single, cluster_label=LABEL).to_df()
    # It writes names small, and drops genes that the reference never counted.
    names = [name.lower() for name in problem.names]
    return [found.reindex(columns=names, fill_value=0).to_numpy(dtype=float)], {}


def embedded(
    problem: Problem,
    seed: int,
    embed: Callable[[list[AnnData], int], list[np.ndarray]],
    settings: str,
) -> Answer:
    """Vectors of another method (:mod:`stofm_geo.benchmark.external_methods`)."""
    return embed(problem.test, seed), {"settings": settings}
