"""Count splitting: whole molecules, at random, in two parts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo.genes.splitting import are_whole, split_counts


def counts(n: int = 500, genes: int = 40, mean: float = 3.0) -> sp.csr_matrix:
    random = np.random.default_rng(0)
    return sp.csr_matrix(random.poisson(mean, (n, genes)).astype(np.float32))


def test_parts_are_whole_and_sum_to_the_counts() -> None:
    whole = counts()
    first, rest = split_counts(whole, 0.3, np.random.default_rng(1))
    assert ((first + rest) != whole).nnz == 0
    for part in (first, rest):
        assert are_whole(part) and part.data.min() > 0 and part.dtype == np.float32
        assert part.has_sorted_indices and part.shape == whole.shape


def test_parts_have_their_share_and_are_independent() -> None:
    whole = counts(4000, 20)
    first, rest = (part.toarray() for part in split_counts(whole, 0.3, np.random.default_rng(1)))
    error = np.sqrt(0.3 * 0.7 / whole.sum())
    assert abs(first.sum() / whole.sum() - 0.3) < 4 * error
    # Of Poisson counts, parts are Poisson distributed and independent.
    assert first.var() == pytest.approx(first.mean(), rel=0.03)
    assert abs(np.corrcoef(first.ravel(), rest.ravel())[0, 1]) < 4 / np.sqrt(first.size)


def test_large_counts_and_bounds() -> None:
    whole = sp.csr_matrix(np.array([[0, 1, 10_000], [2, 0, 0], [0, 0, 0]], dtype=np.float32))
    first, rest = split_counts(whole, 1.0, np.random.default_rng(0))
    assert (first != whole).nnz == 0 and rest.nnz == 0
    half, _ = split_counts(whole, 0.5, np.random.default_rng(0))
    assert abs(half[0, 2] - 5000) < 300


def test_the_same_seed_gives_the_same_parts() -> None:
    first, second = (split_counts(counts(), 0.4, np.random.default_rng(7))[0] for _ in range(2))
    assert (first != second).nnz == 0


def test_fractions_are_refused() -> None:
    with pytest.raises(ValueError, match="only of whole counts; X holds fractions"):
        split_counts(counts() * 0.5, 0.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"between 0 and 1; found 1\.5"):
        split_counts(counts(), 1.5, np.random.default_rng(0))


@pytest.mark.parametrize("mean", [0.3, 3.0])
def test_draws_are_those_of_numpy(mean: float) -> None:
    """Held-out molecules stay the same from version to version."""
    whole = counts(mean=mean)
    first, rest = split_counts(whole, 0.3, np.random.default_rng(1))
    random, one = np.random.default_rng(1), whole.data == 1
    expected = whole.copy()
    expected.data[one] = random.random(int(one.sum()), dtype=np.float32) < 0.3
    expected.data[~one] = random.binomial(whole.data[~one].astype(int), 0.3)
    assert (first != expected).nnz == 0 and (rest != whole - expected).nnz == 0
    for part in (first, rest):
        assert part.nnz == np.count_nonzero(part.toarray())
        assert part.indices.dtype == whole.indices.dtype
