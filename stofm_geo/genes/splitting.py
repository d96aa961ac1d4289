"""Count splitting: the molecules of each cell divided at random into two independent parts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from stofm_geo._validation import check_fraction
from stofm_geo.genes import _splitting_loops

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
    value = counts.data.astype(np.float32, copy=False)
    is_one = value == 1  # most of them; a comparison is much cheaper than a binomial draw
    single = random.random(int(is_one.sum()), dtype=np.float32) < fraction
    several = value[~is_one].astype(np.int64)
    other = random.binomial(several, fraction)
    in_first = int(single.sum() + (other > 0).sum())
    in_rest = int((~single).sum() + (other < several).sum())
    parts = [
        (
            np.empty_like(counts.indptr),
            np.empty(size + 1, counts.indices.dtype),
            np.empty(size + 1, np.float32),
        )
        for size in (in_first, in_rest)
    ]
    _splitting_loops.divide(counts.indptr, counts.indices, value, single, other, *parts)
    first, rest = (
        sp.csr_matrix((data[:-1], indices[:-1], ptr), shape=counts.shape)
        for ptr, indices, data in parts
    )
    return first, rest


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
