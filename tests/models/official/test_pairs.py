from __future__ import annotations

import numpy as np
import pytest
import torch

from stofm_geo.models.official.pairs import NEIGHBORS, known_distance_pairs


def places() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(np.arange(25.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    clumps = [rng.normal(0, 0.01, (500, 2)), rng.normal(30, 5, (300, 2)), [[1e4, 1e4]]]
    return {
        "one": np.array([[2.0, 3.0]]),
        "few": rng.uniform(0, 9, (47, 2)),
        "uniform": rng.uniform(-5, 20, (1500, 2)),
        "clumps": np.concatenate(clumps),
        "line": np.stack([rng.uniform(0, 10, 500), np.full(500, 3.0)], axis=1),
        "slanted line": rng.uniform(0, 10, (500, 1)) * [1.0, 1e-9],
        "lattice": rng.permutation(lattice),
        "many at one place": np.concatenate([np.full((130, 2), 3.0), rng.uniform(0, 9, (99, 2))]),
        "all at one place": np.full((70, 2), 3.0),
    }


@pytest.mark.parametrize("special", [1, 50])
@pytest.mark.parametrize("name", places())
def test_pairs_by_the_book(name: str, special: int) -> None:
    macro = np.random.default_rng(1).uniform(-30, 30, (special - 1, 2))
    pos = np.concatenate([np.zeros((1, 2)), macro, places()[name]])
    edge_index, distance = known_distance_pairs(pos, special)
    known, square = by_the_book(pos, special)
    assert torch.equal(edge_index.flip(0), torch.from_numpy(np.argwhere(known).T))
    src, dst = edge_index.numpy()
    wanted = np.sqrt(square[dst, src]) * ((src > 0) & (dst > 0))
    assert distance.dtype == torch.float32
    np.testing.assert_array_equal(distance, wanted.astype(np.float32))


def by_the_book(pos: np.ndarray, special: int) -> tuple[np.ndarray, np.ndarray]:
    """Known pairs (destination, source), and squared distances, ``[n, n]`` each."""
    n = len(pos)
    square = ((pos[:, None] - pos) ** 2).sum(axis=-1)
    near = np.argsort(square, axis=1, kind="stable")[:, : min(NEIGHBORS, n - 1)]
    known = np.zeros((n, n), dtype=bool)
    np.put_along_axis(known, near, True, axis=1)
    known[1:special] = True
    known |= known.T
    known &= square > 0
    known[0] = known[:, 0] = True
    np.fill_diagonal(known, True)
    return known, square
