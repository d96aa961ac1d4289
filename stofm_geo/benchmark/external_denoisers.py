"""Adapters of external methods that denoise counts, with the settings of their documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._logging import suppress_logger
from stofm_geo.benchmark.external_methods import import_method, isolated
from stofm_geo.benchmark.problems import Problem

Predictions = tuple[list[np.ndarray], dict[str, Any]]


def scvi(problem: Problem, seed: int) -> Predictions:
    """Return the normalised expression of scVI (Lopez et al. 2018), with its default settings."""
    (method,) = import_method("scvi", "scvi")
    adata, full = _with_counts(problem)
    with isolated(seed), suppress_logger("lightning.pytorch"):
        method.settings.seed = seed
        method.model.SCVI.setup_anndata(adata)
        model = method.model.SCVI(adata)
        model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
        found = model.get_normalized_expression(adata, library_size=1, return_numpy=True)
    return _every(problem, full, found), {}


def magic(problem: Problem, seed: int) -> Predictions:
    """Return what MAGIC (van Dijk et al. 2018) makes of square roots of fractions, squared."""
    (method,) = import_method("magic", "magic")
    adata, full = _with_counts(problem)
    counts = adata.X.toarray().astype(np.float64)
    roots = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
    with isolated(seed):
        found = method.MAGIC(random_state=seed, verbose=0).fit_transform(roots)
    found = np.square(np.maximum(found, 0))
    return _every(problem, full, found / found.sum(axis=1, keepdims=True)), {}


def _with_counts(problem: Problem) -> tuple[AnnData, np.ndarray]:
    """Return the cells with counts, and which cells these are, ``[n]`` bool."""
    (adata,) = problem.test
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    full = np.diff(counts.indptr) > 0
    return AnnData(counts[full], var=adata.var[[]]), full


def _every(problem: Problem, full: np.ndarray, found: np.ndarray) -> list[np.ndarray]:
    """Return the fractions ``[n, G]`` of all cells, the mean for those without counts."""
    counts = sp.csr_matrix(problem.test[0].X)
    mean = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
    every = np.tile(mean, (len(full), 1))
    every[full] = found
    return [every]
