from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from stofm_geo.tasks.annotation.calibration import label_of, temperature
from stofm_geo.tasks.metrics import calibration_error, coherence
from stofm_geo.tasks.splits import contiguous_blocks, folds, tissue_groups


def test_blocks_are_contiguous_and_of_equal_size() -> None:
    pos = np.random.default_rng(0).uniform(0, 30, (900, 2))
    block = contiguous_blocks(pos, 100)
    assert np.bincount(block).max() <= 100 and np.bincount(block).min() >= 50
    near = NearestNeighbors(n_neighbors=2).fit(pos).kneighbors(pos)[1][:, 1]
    assert (block == block[near]).mean() > 0.8


def test_slices_are_groups_where_there_are_enough() -> None:
    pos = [np.random.default_rng(i).uniform(0, 9, (50, 2)) for i in range(4)]
    assert [set(group) for group in tissue_groups(pos)] == [{0}, {1}, {2}, {3}]
    few = tissue_groups(pos[:3])
    assert not set(few[0]) & set(few[1]) and len(set(few[0])) > 1


def test_folds_keep_groups_whole_and_hold_each_out_once() -> None:
    groups = np.repeat(np.arange(10), 20)
    codes = np.where(groups == 3, -1, 0)
    parts = folds(groups, codes, 4, seed=0)
    assert len(parts) == 4
    times = np.sum(parts, axis=0)
    assert (times[groups != 3] == 1).all() and (times[groups == 3] == 0).all()
    for part in parts:
        assert all(
            part[groups == group].min() == part[groups == group].max() for group in range(10)
        )
    with pytest.raises(ValueError, match="all labelled cells lie in one block"):
        folds(groups, np.where(groups == 3, 0, -1), 4, seed=0)


def test_temperature_mends_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = (rng.random(4000)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    assert np.isclose(temperature(5 * logits, codes), 5, rtol=0.1)
    sure = np.exp(5 * logits) / np.exp(5 * logits).sum(axis=1, keepdims=True)
    assert calibration_error(p, codes) < 0.03 < calibration_error(sure, codes)
    assert calibration_error(sure, np.full(4000, -1)) > 0.8


def test_labels_and_coherence() -> None:
    p = np.array([[0.9, 0.1], [0.45, 0.55]])
    assert list(label_of(p, ["a", "b"], 0.6)) == ["a", "unassigned"]
    side = np.arange(12.0)
    pos = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    assert coherence((pos[:, 0] > 5).astype(int), pos) > 0.8
    assert coherence(np.random.default_rng(0).integers(0, 2, 144), pos) < 0.65
