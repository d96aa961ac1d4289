"""Components of a slice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo.genes.components import Components


@pytest.fixture
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    rate = rng.gamma(2.0, size=(200, 3)) @ rng.gamma(1.0, size=(3, 30))
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))


def test_their_root_mean_square_is_one_and_their_mean_zero(counts) -> None:
    found = Components.from_counts(counts, 10)(counts)
    assert found.shape == (200, 10)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert np.square(found).mean() == pytest.approx(1, rel=0.01)
    variance = found.var(axis=0)
    assert (np.diff(variance) <= 1e-6).all()


def test_blocks_are_as_all_at_once(counts) -> None:
    whole = Components.from_counts(counts, 5)
    parts = Components.from_blocks(lambda: (counts[i : i + 64] for i in range(0, 200, 64)), 5)
    np.testing.assert_allclose(parts.loadings, whole.loadings, atol=1e-5)
    np.testing.assert_allclose(parts(counts), whole(counts), atol=1e-4)


def test_depth_and_genes_without_counts_do_not_matter(counts) -> None:
    expected = Components.from_counts(counts, 5)(counts)
    deeper = sp.csr_matrix(sp.hstack([counts * 7, sp.csr_matrix((200, 4), dtype=np.float32)]))
    own = Components.from_counts(deeper, 5)
    assert len(own.panel) == 30
    np.testing.assert_allclose(own(deeper), expected, atol=1e-4)


def test_what_a_slice_lacks_is_filled_with_zeros(counts) -> None:
    own = Components.from_counts(counts[:, :4].tocsr(), 10)
    assert own.loadings.shape == (4, 10) and not own.loadings[:, 3:].any()


def test_cells_without_counts_are_average(counts) -> None:
    empty = counts.toarray()
    empty[5] = 0
    counts = sp.csr_matrix(empty)
    with pytest.warns(UserWarning, match="1 of 200 cells have no counts"):
        own = Components.from_counts(counts, 5)
    assert not own(counts)[5].any()


def test_cells_that_are_all_alike() -> None:
    alike = sp.csr_matrix(np.ones((20, 6), dtype=np.float32))
    assert np.isfinite(Components.from_counts(alike, 5)(alike)).all()
