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
_NEVER = -5.0  # logit of a class that a fold has not shown
_MOST = 10_000  # cells by which the strength is chosen


class Choice(NamedTuple):
    """Result of the cross-validation of the regularisation strength.

    Attributes:
        strength: Of regularisation.
        cells: Those with a label, each when its fold was held out: their numbers, ``[m]``.
        logits: Theirs, ``[m, C]``.
        loss: Their cross-entropy, classes balanced.
    """

    strength: float
    cells: np.ndarray
    logits: np.ndarray
    loss: float


class Weights(NamedTuple):
    """Weights of a linear layer: ``[C, D]``, ``[C]``."""

    weight: Tensor
    bias: Tensor


def fit_probe(x: np.ndarray, codes: np.ndarray, count: int, strength: float) -> Weights:
    """Fit a class-balanced logistic regression on cells ``[n, D]`` of classes ``[n]``."""
    return _path(x, codes, count, [strength])[0]


def choose(
    x: np.ndarray, codes: np.ndarray, count: int, held_out: list[np.ndarray], seed: int
) -> Choice:
    """Choose the regularisation strength by cross-validation.

    Args:
        x: ``[n, D]``.
        codes: Classes ``[n]``, -1 without one.
        count: Classes.
        held_out: A mask ``[n]`` a fold.
        seed: Random seed of the subsample, where there are more than 10 000 cells.

    Raises:
        ValueError: What is not held out has one label alone, whatever is.
    """
    known = np.flatnonzero(codes >= 0)
    if len(known) > _MOST:
        known = np.sort(np.random.default_rng(seed).choice(known, _MOST, replace=False))
    cells, logits = [], []
    for fold in held_out:
        train, test = known[~fold[known]], known[fold[known]]
        if len(np.unique(codes[train])) < 2 or not len(test):
            continue
        heads = _path(x[train], codes[train], count, STRENGTHS)
        cells.append(test)
        logits.append([x[test] @ head.weight.numpy().T + head.bias.numpy() for head in heads])
    if not cells:
        raise ValueError(
            "wherever a part of the tissue is held out, one label alone is left; "
            "label cells of more of the slice, or give more slices"
        )
    rows = np.concatenate(cells)
    each = [np.concatenate(parts).astype(np.float64) for parts in zip(*logits, strict=True)]
    losses = [balanced_loss(one, codes[rows]) for one in each]
    best = int(np.argmin(losses))
    return Choice(STRENGTHS[best], rows, each[best], losses[best])


def _path(
    x: np.ndarray, codes: np.ndarray, count: int, strengths: Sequence[float]
) -> list[Weights]:
    """Fit each strength, ascending, each warm-started from the one before."""
    fit = LogisticRegression(class_weight="balanced", max_iter=200, tol=1e-3, warm_start=True)
    heads = []
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough to its optimum
            fit.set_params(C=strength).fit(x, codes)
        weight, bias = fit.coef_, fit.intercept_
        if len(fit.classes_) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        whole = np.zeros((count, x.shape[1])), np.full(count, _NEVER)
        whole[0][fit.classes_], whole[1][fit.classes_] = weight, bias
        heads.append(Weights(*(torch.from_numpy(part).float() for part in whole)))
    return heads
