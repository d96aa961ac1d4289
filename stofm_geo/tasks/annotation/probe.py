"""Linear probe: logistic regression on frozen embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from stofm_geo.tasks.metrics import balanced_loss

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
# Of the gradient. At 1e-3, probabilities are wrong by up to 0.06, and differ between processors.
_TOLERANCE, _PRECISE = 1e-4, 1e-5  # in the choice of the strength, and at the end
_ABSENT_LOGIT = -5.0  # of a class without training cells
_MAX_CELLS = 10_000  # in the cross-validation of the strength


class Choice(NamedTuple):
    """Result of the cross-validation of the regularisation strength.

    Attributes:
        strength: Inverse regularisation strength, ``C`` of scikit-learn.
        cells: Indices of the cells with out-of-fold logits, ``[m]``.
        logits: Out-of-fold logits of these cells, ``[m, C]``.
        loss: Class-balanced cross-entropy of the logits.
    """

    strength: float
    cells: np.ndarray
    logits: np.ndarray
    loss: float


class Weights(NamedTuple):
    """Weight ``[C, D]`` and bias ``[C]`` of a linear layer."""

    weight: Tensor
    bias: Tensor

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return the logits ``[n, C]`` of inputs ``[n, D]``."""
        return x @ self.weight.numpy().T + self.bias.numpy()


def fit_probe(x: np.ndarray, codes: np.ndarray, count: int, strength: float) -> Weights:
    """Fit a class-balanced logistic regression on cells ``[n, D]`` of classes ``[n]``."""
    return _path(x, codes, count, [strength], _PRECISE)[0]


def choose(
    x: np.ndarray, codes: np.ndarray, count: int, held_out: list[np.ndarray], seed: int
) -> Choice:
    """Choose the regularisation strength by cross-validation.

    Args:
        x: Inputs ``[n, D]``.
        codes: Classes ``[n]``, -1 where unknown.
        count: Number of classes.
        held_out: Mask of each fold, ``[n]`` bool each.
        seed: Random seed of the subsample of 10 000 cells, if there are more.

    Raises:
        ValueError: Every fold leaves a single class to train on.
    """
    known = np.flatnonzero(codes >= 0)
    if len(known) > _MAX_CELLS:
        known = np.sort(np.random.default_rng(seed).choice(known, _MAX_CELLS, replace=False))
    cells, logits = [], []
    for fold in held_out:
        train, test = known[~fold[known]], known[fold[known]]
        if len(np.unique(codes[train])) < 2 or not len(test):
            continue
        heads = _path(x[train], codes[train], count, STRENGTHS, _TOLERANCE)
        cells.append(test)
        logits.append([head.logits(x[test]) for head in heads])
    if not cells:
        raise ValueError(
            "holding out any part of the tissue leaves a single label; "
            "label cells of more of the slice, or give more slices"
        )
    rows = np.concatenate(cells)
    by_strength = [np.concatenate(p).astype(np.float64) for p in zip(*logits, strict=True)]
    losses = [balanced_loss(values, codes[rows]) for values in by_strength]
    best = int(np.argmin(losses))
    return Choice(STRENGTHS[best], rows, by_strength[best], losses[best])


def _path(
    x: np.ndarray, codes: np.ndarray, count: int, strengths: Sequence[float], tolerance: float
) -> list[Weights]:
    """Fit the classifier at ascending strengths, each warm-started from the previous one."""
    fit = LogisticRegression(class_weight="balanced", max_iter=1000, tol=tolerance, warm_start=True)
    heads = []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough to its optimum
            fit.set_params(C=strength).fit(x, codes)
        weight, bias = fit.coef_, fit.intercept_
        if len(fit.classes_) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        padded = np.zeros((count, x.shape[1])), np.full(count, _ABSENT_LOGIT)
        padded[0][fit.classes_], padded[1][fit.classes_] = weight, bias
        heads.append(Weights(*(torch.from_numpy(part).float() for part in padded)))
    return heads
