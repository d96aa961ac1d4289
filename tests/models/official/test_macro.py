from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stofm_geo.models.official import macro_nodes
from stofm_geo.models.official.macro import _fuzzy


@pytest.fixture(scope="module")
def tissue() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four kinds of cells, each in a quarter of the slice."""
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 10, (400, 2))
    kind = 2 * (pos[:, 0] > 5) + (pos[:, 1] > 5)
    features = np.eye(4)[kind] * 3 + rng.normal(size=(400, 4)) * 0.2
    return pos, features, kind


def test_virtual_cells_are_means_of_alike_cells(tissue) -> None:
    pos, features, _ = tissue
    where, what = macro_nodes(pos, features)
    assert where.shape == (len(what), 2) and what.shape[1] == 4
    assert 4 <= len(where) < 40
    # Those of one kind: features near one corner of the simplex.
    assert (np.sort(what, axis=1)[:, -1] > 2.5).all()
    again = macro_nodes(pos, features)
    assert np.array_equal(where, again[0]) and np.array_equal(what, again[1])


def test_resolution_and_unit(tissue) -> None:
    pos, features, _ = tissue
    few, many = (len(macro_nodes(pos, features, resolution=r)[0]) for r in (0.1, 4))
    assert few < many
    here, there = macro_nodes(pos, features)[0], macro_nodes(1e4 * pos - 7, features)[0]
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_weights_of_the_fuzzy_graph() -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    graph = _fuzzy(points, 10).toarray()
    np.testing.assert_allclose(graph, graph.T)
    assert (graph.diagonal() == 0).all() and graph.max() <= 1 + 1e-12
    nearest = cKDTree(points).query(points, k=2)[1][:, 1]
    np.testing.assert_allclose(graph[np.arange(50), nearest], 1)


def test_golden_virtual_cells(golden) -> None:
    """Leiden draws; as many as published and in the same places, nearly."""
    expected = golden["slice/hyper_positions"].numpy()
    where, _ = macro_nodes(golden["slice/positions_raw"].numpy(), golden["slice/features"].numpy())
    assert abs(len(where) - len(expected)) <= 0.15 * len(expected)
    assert np.median(cKDTree(where).query(expected)[0]) < 5  # of 100


def test_bad_input_is_named(tissue) -> None:
    pos, features, _ = tissue
    with pytest.raises(ValueError, match="3 cells or more; found 2"):
        macro_nodes(pos[:2], features[:2])
    with pytest.raises(ValueError, match=r"features must be \[400, F\]"):
        macro_nodes(pos, features[:5])
    with pytest.raises(ValueError, match="features hold NaN"):
        macro_nodes(pos, features * np.nan)
    with pytest.raises(ValueError, match="alpha must be a fraction"):
        macro_nodes(pos, features, alpha=2)
