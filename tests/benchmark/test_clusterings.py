"""Every clustering that vectors are compared under finds what is plain to see."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from stofm_geo.benchmark import clusterings


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), (60, 80, 100))
    return label, 8 * np.eye(3, 40)[label] + rng.normal(size=(240, 40))


def test_plain_clusters_are_found(blobs) -> None:
    label, vectors = blobs
    parts = clusterings.components(vectors)
    assert parts.shape == (240, 30)
    for name, cluster in clusterings.CLUSTERINGS.items():
        assert adjusted_rand_score(label, cluster(parts, 3, 0)) > 0.95, name
    pos = np.random.default_rng(1).normal(size=(240, 2))
    found = clusterings.library_domains(vectors, pos, 3, refine=False)
    assert adjusted_rand_score(label, found) > 0.95


def test_leiden_finds_as_many_as_asked(blobs) -> None:
    parts = clusterings.components(blobs[1])
    for count in (3, 5):
        assert len(np.unique(clusterings.leiden_clusters(parts, count, 0))) == count
