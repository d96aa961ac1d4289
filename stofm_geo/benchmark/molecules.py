"""Molecules held out: problems whose answer is expected expression, and their scores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from stofm_geo._linalg import row_sums
from stofm_geo.benchmark.datasets import Slices
from stofm_geo.benchmark.problems import Problem, Split
from stofm_geo.benchmark.splits import without_labels
from stofm_geo.genes.splitting import split_counts

SHARE = 0.2  # of the molecules
_MIN_CELLS, _AXES = 10, 30
_LEAST = 1e-12  # fraction, so that deviances are finite


class ErrorAxes:
    """Principal axes along which errors are measured; made of training molecules alone.

    Fractions are divided by the root of a gene's share of all molecules, so that counting noise is
    about equal for all genes. Along the axes, the training molecules have a standard deviation of 1
    in the mean.

    Args:
        counts: Counts ``[n, G]``.
        total: Expected sum of each cell, ``[n]``.
    """

    def __init__(self, counts: sp.csr_matrix, total: np.ndarray) -> None:
        share = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
        self.weight = np.divide(1, np.sqrt(share), where=share > 0, out=np.zeros_like(share))
        rows = sp.csr_matrix(self._rows(counts, total))
        size = min(_AXES, min(rows.shape) - 1)
        self.axes = PCA(size, svd_solver="arpack", random_state=0).fit(rows).components_.T
        self.centre = np.asarray(rows.mean(axis=0)).ravel() @ self.axes
        self.scale = 1.0
        self.scale = float(self(counts, total).std())

    def _rows(self, counts: sp.csr_matrix | np.ndarray, total: np.ndarray) -> Any:
        total = np.maximum(total, 1)
        if isinstance(counts, np.ndarray):
            return counts / total[:, None] * self.weight
        return sp.diags_array(1 / total) @ counts @ sp.diags_array(self.weight)

    def __call__(self, counts: sp.csr_matrix | np.ndarray, total: np.ndarray) -> np.ndarray:
        """Return coordinates along the axes, ``[n, axes]``."""
        return (self._rows(counts, total) @ self.axes - self.centre) / self.scale

    def noise(self, counts: sp.csr_matrix, total: np.ndarray) -> float:
        """Return the mean variance of Poisson noise along the axes, which nobody can predict."""
        total = np.maximum(total, 1)
        variance = sp.diags_array(1 / total**2) @ counts @ sp.diags_array(self.weight**2)
        return float((variance @ self.axes**2).mean() / self.scale**2)


def held_out_molecules(slices: Slices, dataset: str) -> Iterator[Split]:
    """Yield a split of the first slice: a fifth of each cell's molecules is held out.

    They are drawn before any model sees the slice, and are in nothing that a model gets. Genes are
    those with counts in ten cells or more.
    """

    def make() -> tuple[Problem, partial]:
        adata = without_labels(first)
        counts = sp.csr_matrix(adata.X, dtype=np.float32)
        genes = np.diff(counts.tocsc().indptr) >= _MIN_CELLS
        adata, counts = adata[:, genes].copy(), counts[:, genes]
        held_out, train = split_counts(counts, SHARE, np.random.default_rng(0))
        adata.X = train
        names = [str(name) for name in adata.var_names]
        problem = Problem("molecules", [], [adata], names, molecules=[int(counts.sum())])
        return problem, partial(score, problem, held_out)

    name, first = next(iter(slices.items()))
    yield Split(name, make, "molecules")


def score(
    problem: Problem, held_out: sp.csr_matrix, predictions: list[np.ndarray]
) -> dict[str, float]:
    """Return errors along axes, and the fractions of variance and deviance that are explained.

    ``"excess"`` is the mean squared error without the variance of counting noise.

    Args:
        problem: Problem of kind ``"molecules"``.
        held_out: Counts ``[n, G]``.
        predictions: Fractions ``[n, G]``.
    """
    (adata,), (fractions,) = problem.test, predictions
    train = sp.csr_matrix(adata.X)
    total = row_sums(train + held_out)
    axes = ErrorAxes(train, (1 - SHARE) * total)
    fractions = np.maximum(fractions, _LEAST)
    fractions = fractions / fractions.sum(axis=1, keepdims=True)
    mean = np.asarray(train.sum(axis=0)).ravel() / train.sum()
    true = axes(held_out, SHARE * total)

    def error(predicted: np.ndarray) -> float:
        return float(np.square(axes(predicted, np.ones(len(predicted))) - true).mean())

    def deviance(predicted: np.ndarray) -> float:
        # Expected counts have the sums of the counts: other terms cancel.
        rows, columns = held_out.nonzero()
        counts = np.asarray(held_out[rows, columns]).ravel()
        of_cell = row_sums(held_out)[rows]
        return float(2 * (counts * np.log(counts / (of_cell * predicted[rows, columns]))).sum())

    average = np.broadcast_to(np.maximum(mean, _LEAST), fractions.shape)
    found = error(fractions)
    return {
        "error": found,
        "excess": found - axes.noise(held_out, SHARE * total),
        "explained_variance": 1 - found / error(average),
        "explained_deviance": 1 - deviance(fractions) / deviance(average),
    }
