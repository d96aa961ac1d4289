"""The hidden layer's say beside the linear classifier."""

from __future__ import annotations

import numpy as np
import torch

from stofm_geo.tasks.annotation import mlp


def test_who_knows_more_says_more() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 600)
    truth = 3.0 * np.eye(4)[codes]
    noise = rng.normal(size=(3, 600, 4))
    good, bad = truth + noise[0], 5 * noise[1]
    assert mlp.choose_share(good, bad, codes) == 0
    assert mlp.choose_share(bad, good, codes) == 1
    also = truth + 1.2 * noise[2]
    assert 0 < mlp.choose_share(good, also, codes) < 1
    # Being too sure of it all is no fault: logits are calibrated afterwards.
    assert mlp.choose_share(bad, 20 * good, codes) == 1


def test_logits_are_those_of_both() -> None:
    torch.manual_seed(0)
    head, x = mlp.Classifier(5, 3).eval(), torch.randn(7, 5)
    for share in (0.0, 0.25, 1.0):
        head.share.fill_(share)
        expected = (1 - share) * head.linear(x) + share * head.hidden(x)
        torch.testing.assert_close(head(x), expected)


def test_no_cell_is_told_by_what_has_seen_it() -> None:
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(90, 3)), np.repeat([0, 1, -1], 30)
    folds = [np.arange(90) % 3 == fold for fold in (0, 1)]  # the third is never held out
    logits = mlp.out_of_fold(x, codes, 2, folds, seed=0)
    told = (folds[0] | folds[1]) & (codes >= 0)
    np.testing.assert_array_equal(np.isfinite(logits).all(axis=1), told)
    x[0] += 100.0  # of the first fold: what is said of the others of that fold stays
    again = mlp.out_of_fold(x, codes, 2, folds, seed=0)
    np.testing.assert_array_equal(logits[folds[0]][1:], again[folds[0]][1:])
    assert not np.array_equal(logits[folds[1]], again[folds[1]], equal_nan=True)
