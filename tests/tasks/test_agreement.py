"""Mixing and correspondence of slices, on tissues in which both are known."""

from __future__ import annotations

import numpy as np
import pytest

from stofm_geo.tasks import agreement as module
from stofm_geo.tasks.agreement import agreement


def twins(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two slices of one tissue, embedded as they lie, with a little noise."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 1, (2 * n, 2))
    slices = rng.permutation(np.repeat([0, 1], n))
    return positions + 0.01 * rng.normal(size=positions.shape), slices, positions


def test_twins_agree() -> None:
    found = agreement(*twins())
    assert found.mixing == pytest.approx(1, abs=0.05)
    assert found.correspondence > 0.95
    assert found.score == found.mixing * found.correspondence


def test_slices_that_lie_apart_do_not_mix() -> None:
    z, slices, positions = twins()
    found = agreement(z + 10 * slices[:, None], slices, positions)
    assert found.mixing == 0 and found.correspondence < 0.5


def test_noise_mixes_and_has_no_correspondence() -> None:
    z, slices, positions = twins(1000)
    found = agreement(np.random.default_rng(1).normal(size=z.shape), slices, positions)
    assert found.mixing == pytest.approx(1, abs=0.05)
    assert found.correspondence < 0.05


def test_numbers_worked_out_by_hand(monkeypatch) -> None:
    """Embeddings on a line; slice 0 at 0, 1, 2, slice 1 at 0.1, 1.1, 9; one neighbour each."""
    monkeypatch.setattr(module, "_NEIGHBOURS", 1)
    z = np.array([0, 1, 2, 0.1, 1.1, 9.0])[:, None]
    slices = np.array([0, 0, 0, 1, 1, 1])
    positions = np.stack([[0, 1, 2, 0, 1, 9], [0] * 6], axis=1).astype(float)
    found = agreement(z, slices, positions)
    # All neighbours are of the other slice, as half of the cells are.
    assert found.mixing == pytest.approx(2)
    # Round trips from 0, 1, 2 end at 1, 2, 1, those from 0.1, 1.1, 9 at 1.1, 0.1, 1.1: each time
    # one of three cells, the start itself, is nearer to the start.
    assert found.correspondence == pytest.approx(1 / 3)


def test_large_slices_outweigh_nobody(monkeypatch) -> None:
    """A sample of the cells tells the same, and slices count alike whatever their size."""
    z, slices, positions = twins(1000)
    whole = agreement(z, slices, positions)
    monkeypatch.setattr(module, "_MOST", 500)
    monkeypatch.setattr(module, "_ASKED", 200)
    part = agreement(z, slices, positions)
    assert part.score == pytest.approx(whole.score, abs=0.1)
    few = np.flatnonzero((slices == 0) | (np.arange(2000) % 10 == 0))
    uneven = agreement(z[few], slices[few], positions[few])
    assert uneven.mixing == pytest.approx(1, abs=0.1)
