"""Count splitting: the molecules of each cell divided at random into two independent parts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from stofm_geo._validation import check_fraction

HELD_OUT = 0.1  # fraction of the molecules
_SEED = 790_142


def split_counts(
    counts: sp.csr_matrix, fraction: float, random: np.random.Generator
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the molecules of each cell at random into two parts.

    Each molecule goes to the first part with probability ``fraction``. If counts are Poisson
    distributed about a cell's expression, the two parts are independent given the expression, so
    that one can be used to test predictions made from the other (Neufeld et al. 2022,
    arXiv 2207.00554; Batson et al. 2019, doi:10.1101/786269).

    Args:
        counts: Whole numbers ``[n, G]``.
        fraction: Expected fraction of the first part.
        random: Random generator.

    Returns:
        Both parts ``[n, G]`` float32, whose sum is ``counts``, without explicit zeros.

    Raises:
        TypeError, ValueError: ``fraction`` is not between 0 and 1, or counts are not whole.
    """
    check_fraction("fraction", fraction)
    if not are_whole(counts):
        raise ValueError("molecules can be split only of whole counts; X holds fractions")
    value = counts.data
    first = np.empty(len(value), dtype=np.float32)
    single = value == 1  # most of them; a comparison is much cheaper than a binomial draw
    first[single] = random.random(int(single.sum()), dtype=np.float32) < fraction
    first[~single] = random.binomial(value[~single].astype(np.int64), fraction)
    return _part(counts, first), _part(counts, value - first)


def hold_out(counts: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the molecules of a slice into those that training holds out, a tenth, and the others.

    The split is the same each time, so that what is fitted and what is tested can make it apart.

    Args:
        counts: Whole numbers ``[n, G]``; rows and columns of zeros make no difference.
    """
    return split_counts(counts, HELD_OUT, np.random.default_rng(_SEED))


def are_whole(counts: sp.csr_matrix) -> bool:
    """Return whether all counts are whole numbers."""
    return bool((counts.data == np.rint(counts.data)).all())


def _part(counts: sp.csr_matrix, value: np.ndarray) -> sp.csr_matrix:
    kept = value > 0
    ends = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    arrays = value[kept].astype(np.float32), counts.indices[kept], ends
    return sp.csr_matrix(arrays, shape=counts.shape)
