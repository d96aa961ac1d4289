"""Components of gene fractions: linear in the counts, with equal noise, and back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import split_counts


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    random = np.random.default_rng(0)
    types = random.gamma(1, 1, (4, 30))
    rate = types[random.integers(4, size=300)] * random.gamma(5, 1, (300, 1))
    return sp.csr_matrix(random.poisson(rate).astype(np.float32))


def total_of(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel()


def test_against_a_dense_decomposition(counts) -> None:
    found = FractionComponents.from_counts([counts[:100], counts[100:]], 5)
    fractions = counts.toarray() / total_of(counts)[:, None]
    mean = fractions.mean(axis=0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    scaled = (fractions - mean) / np.sqrt(mean)
    u, s, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    y = found(counts, total_of(counts))
    assert y.dtype == np.float32 and y.shape == (300, 5)
    for k in range(5):
        assert abs(np.corrcoef(y[:, k], u[:, k])[0, 1]) > 1 - 1e-5
    wide = y * found.widths  # unwhitened, up to one factor
    ratio = wide.std(axis=0) / s[:5]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert np.square(found.widths).mean() == pytest.approx(1)


def test_a_part_of_the_molecules_is_unbiased(counts) -> None:
    components = FractionComponents.from_counts([counts], 5)
    whole, random = components(counts, total_of(counts)), np.random.default_rng(0)
    parts = [split_counts(counts, 0.3, random)[0] for _ in range(400)]
    mean = np.mean([components(part, 0.3 * total_of(counts)) for part in parts], axis=0)
    spread = np.std([components(part, 0.3 * total_of(counts)) for part in parts], axis=0)
    error = (mean - whole) / (spread / 20)
    assert np.square(error).mean() == pytest.approx(1, abs=0.15)


def test_decoding_gives_fractions_near_the_true_ones(counts) -> None:
    components = FractionComponents.from_counts([counts], 29)
    found = components.decode(components(counts, total_of(counts)))
    fractions = counts.toarray() / total_of(counts)[:, None]
    assert found.min() > 0
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found - fractions).max() < 0.01
    average = components.decode(np.zeros((1, 29), dtype=np.float32))
    np.testing.assert_allclose(average[0], components.mean, rtol=1e-5)


def test_cells_and_genes_without_counts(counts) -> None:
    empty = counts.tolil()
    empty[3], empty[:, 7] = 0, 0
    empty = sp.csr_matrix(empty)
    empty.eliminate_zeros()
    components = FractionComponents.from_counts([empty], 4)
    y = components(empty, total_of(empty))
    assert np.isfinite(y).all() and np.isfinite(components.decode(y)).all()
    assert components.decode(y)[:, 7].max() == 0
