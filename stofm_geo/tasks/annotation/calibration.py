"""Temperature scaling on held-out cells."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from stofm_geo._keys import Keys

_RANGE = (np.log(0.05), np.log(20))


def temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    r"""Return the temperature :math:`T` of maximum likelihood.

    Probabilities are :math:`\mathrm{softmax}(\text{logits} / T)`.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).

    Args:
        logits: Logits of held-out cells, ``[n, C]``.
        codes: Classes of these cells, ``[n]``.
    """

    def loss(log_t: float) -> float:
        likelihood = log_softmax(logits / np.exp(log_t), axis=1)
        return -float(likelihood[np.arange(len(codes)), codes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_RANGE, method="bounded").x))


def label_of(probability: np.ndarray, classes: list[str], min_probability: float) -> np.ndarray:
    """Return the most probable label, ``[n]``.

    It is ``"unassigned"`` where its probability is below ``min_probability``, and ``None`` where
    probabilities are NaN.
    """
    label = np.array(classes, dtype=object)[probability.argmax(axis=1)]
    label[probability.max(axis=1) < min_probability] = Keys.UNASSIGNED
    label[np.isnan(probability).any(axis=1)] = None
    return label
