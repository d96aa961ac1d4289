from __future__ import annotations

import numpy as np
import pytest
import torch

from stofm_geo.models.official import subslices
from stofm_geo.models.official.slices import UNKNOWN_DISTANCE, normalized, tiles


def matrix(subslice) -> torch.Tensor:
    """The distances of a sub-slice as the published code keeps them."""
    full = torch.full((subslice.num_nodes, subslice.num_nodes), UNKNOWN_DISTANCE)
    full[subslice.edge_index[1], subslice.edge_index[0]] = subslice.edge_attr
    return full


def slow_matrix(pos: np.ndarray, special: int) -> np.ndarray:
    """Section by section; positions without ties."""
    n = len(pos)
    distance = np.linalg.norm(pos[:, None] - pos, axis=-1)
    near = np.argsort(distance, axis=1, kind="stable")[:, : min(50, n - 1)]
    full = np.zeros((n, n))
    np.put_along_axis(full, near, np.take_along_axis(distance, near, 1), 1)
    full[0] = full[:, 0] = 0
    full[1:special, 1:] = distance[1:special, 1:]
    full[1:, 1:special] = distance[1:, 1:special]
    full[full == 0] = 100
    full = np.where(full == 100, full.T, full)
    full[0] = full[:, 0] = 0
    np.fill_diagonal(full, 0)
    return full


def test_golden_positions_tiles_and_distances(golden) -> None:
    positions = golden["slice/positions_raw"].numpy()
    pos = normalized(positions)
    np.testing.assert_allclose(pos, golden["slice/positions"], rtol=0, atol=1e-12)
    cells = 100 if len(pos) == 260 else 500
    parts = tiles(pos, cells)
    assert [len(part) for part in parts] == golden["slice/split_sizes"].tolist()
    assert np.array_equal(np.concatenate(parts), golden["slice/split_index"])
    features = np.zeros((len(pos), 3))
    macro = golden["slice/hyper_positions"]
    made = subslices(positions, features, macro, np.ones((len(macro), 3)), cells)
    compared = 0
    for i, subslice in enumerate(made):
        if golden.has(f"slice/sub{i}.attn_bias"):
            gap = (matrix(subslice) - golden[f"slice/sub{i}.attn_bias"]).abs().max()
            assert gap < 1e-4
            compared += 1
    assert compared


@pytest.mark.parametrize("cells", [4, 60, 300])
def test_distances_by_the_book(cells: int) -> None:
    rng = np.random.default_rng(0)
    pos, macro = rng.uniform(0, 9, (cells, 2)), rng.uniform(-30, 30, (3, 2))
    (subslice,) = subslices(pos, rng.normal(size=(cells, 2)), macro, np.zeros((3, 2)))
    nodes = np.concatenate([np.zeros((1, 2)), macro, normalized(pos)])
    np.testing.assert_allclose(matrix(subslice), slow_matrix(nodes, 4), atol=1e-5)
    dst, src = subslice.edge_index[1], subslice.edge_index[0]
    assert (torch.diff(dst * subslice.num_nodes + src) > 0).all()  # sorted, each pair once


def test_nodes_of_a_subslice() -> None:
    rng = np.random.default_rng(0)
    pos, x = rng.uniform(0, 9, (50, 2)), rng.normal(size=(50, 4)).astype(np.float32)
    macro_x = rng.normal(size=(2, 4)).astype(np.float32)
    made = subslices(pos, x, [[1.0, 2], [3, 4]], macro_x, 20)
    assert len(made) > 1
    seen = torch.cat([subslice.n_id for subslice in made])
    assert sorted(seen[seen >= 0].tolist()) == list(range(50))
    for subslice in made:
        assert subslice.node_type[:3].tolist() == [1, 2, 2] and (subslice.node_type[3:] == 0).all()
        assert subslice.n_id[:3].tolist() == [-1, -1, -1]
        assert (subslice.x[0] == 0).all() and (subslice.pos[0] == 0).all()
        assert torch.equal(subslice.x[1:3], torch.from_numpy(macro_x))
        assert torch.equal(subslice.x[3:], torch.from_numpy(x[subslice.n_id[3:]]))


def test_cells_at_one_place_are_not_told_of_each_other() -> None:
    pos = np.array([[0.0, 0], [0, 0], [1, 1], [2, 0]])
    (subslice,) = subslices(pos, np.ones((4, 1)), np.empty((0, 2)), np.empty((0, 1)))
    full = matrix(subslice)
    assert full[1, 2] == full[2, 1] == UNKNOWN_DISTANCE
    assert (full.diagonal() == 0).all() and (full[0] == 0).all()


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_tiles_hold_each_cell_once(count: int) -> None:
    pos = np.random.default_rng(0).uniform(0, 1, (count, 2)) ** 3
    parts = tiles(pos, 100)
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert max(map(len, parts)) < 200


def test_bad_input_is_named() -> None:
    x, none = np.ones((3, 2)), np.empty((0, 2))
    good = np.array([[0.0, 0], [1, 0], [0, 1]])
    with pytest.raises(ValueError, match="all 3 cells lie at one place"):
        subslices(np.ones((3, 2)), x, none, none)
    with pytest.raises(ValueError, match="positions hold NaN"):
        subslices(good * np.nan, x, none, none)
    with pytest.raises(ValueError, match=r"positions must be \[n, 2\]"):
        subslices(np.ones((3, 3)), x, none, none)
    with pytest.raises(ValueError, match=r"features must be \[3, F\]"):
        subslices(good, x[:2], none, none)
    with pytest.raises(ValueError, match="features hold NaN"):
        subslices(good, x * np.inf, none, none)
    with pytest.raises(ValueError, match="features have 2 columns, macro_features 5"):
        subslices(good, x, good, np.ones((3, 5)))
    with pytest.raises(ValueError, match="lie on one line"):
        subslices(good * [1, 0], x, none, none, 2)
