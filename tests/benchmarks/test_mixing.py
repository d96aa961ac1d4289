"""LISI and kBET, on slices whose mixing is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality._mixing import _gaussian, clisi, ilisi, kbet, lisi


def cloud(shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    slices = rng.permutation(np.repeat([0, 1], 500))
    return rng.normal(size=(1000, 3)) + shift * slices[:, None], slices


def test_weights_have_the_perplexity_asked_for() -> None:
    weight = _gaussian(np.sort(np.random.default_rng(0).uniform(1, 9, (50, 90)), axis=1), 30)
    entropy = -(weight * np.log(np.maximum(weight, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(entropy), 30, rtol=1e-6)


def test_mixed_and_separate_slices() -> None:
    mixed, slices = cloud(0.0)
    apart, _ = cloud(20.0)
    label = np.repeat("cell", 1000)
    assert ilisi(mixed, slices) > 0.9 and clisi(mixed, slices) < 0.1
    assert kbet(mixed, slices, label) > 0.85
    assert ilisi(apart, slices) == pytest.approx(0, abs=1e-9)
    assert clisi(apart, slices) == pytest.approx(1, abs=1e-9)
    assert kbet(apart, slices, label) == 0


def test_equal_shares_of_four_groups_are_four() -> None:
    vectors = np.random.default_rng(0).normal(size=(4000, 2))
    group = np.random.default_rng(1).integers(0, 4, 4000)
    assert np.median(lisi(vectors, group)) == pytest.approx(3.6, abs=0.2)


def test_kbet_is_of_each_label_by_itself() -> None:
    """Slices of different composition are accepted, where each label is mixed."""
    rng = np.random.default_rng(0)
    slices = np.repeat([0, 1], [600, 600])
    label = np.where(rng.uniform(size=1200) < np.where(slices, 0.8, 0.2), "a", "b")
    vectors = rng.normal(size=(1200, 3)) + np.where(label == "a", 10.0, 0.0)[:, None]
    assert kbet(vectors, slices, label) > 0.85
    assert kbet(vectors, slices, np.repeat("all", 1200)) < 0.2
