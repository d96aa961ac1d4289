"""The linear probe is at the optimum of its loss, whatever the processor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from stofm_geo.tasks.annotation.probe import STRENGTHS, choose, fit_probe


def tissue() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    codes = random.integers(0, 5, 400)
    centres = random.normal(size=(5, 40))
    # Correlated columns, for which solvers take long.
    x = (centres[codes] + 2 * random.normal(size=(400, 40))) @ random.normal(size=(40, 40)) / 6
    return x, codes


@pytest.mark.parametrize("strength", STRENGTHS)
def test_probabilities_are_those_of_the_optimum(strength: float) -> None:
    x, codes = tissue()
    head = fit_probe(x, codes, 5, strength)
    found = softmax(x @ head.weight.numpy().T + head.bias.numpy(), axis=1)
    exact = LogisticRegression(C=strength, class_weight="balanced", tol=1e-9, max_iter=100_000)
    np.testing.assert_allclose(found, exact.fit(x, codes).predict_proba(x), atol=2e-3)


def test_out_of_fold_logits_are_near_the_optimum() -> None:
    x, codes = tissue()
    fold = np.arange(400) % 2 == 0
    choice = choose(x, codes, 5, [fold, ~fold], seed=0)
    exact = LogisticRegression(
        C=choice.strength, class_weight="balanced", tol=1e-9, max_iter=100_000
    )
    expected = exact.fit(x[~fold], codes[~fold]).predict_proba(x[fold])
    rows = np.isin(choice.cells, np.flatnonzero(fold))
    found = softmax(choice.logits[rows], axis=1)[np.argsort(choice.cells[rows])]
    np.testing.assert_allclose(found, expected, atol=2e-2)
