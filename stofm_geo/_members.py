"""Which rows belong together, as a matrix that sums them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def members(label: np.ndarray, count: int | None = None) -> sp.csr_matrix:
    """One row a group, with a 1 at each of its members, ``[groups, n]``.

    Args:
        label: Number of each member's group, ``[n]``.
        count: Groups; ``None``: one more than the largest number.
    """
    shape = None if count is None else (count, len(label))
    return sp.csr_matrix((np.ones(len(label)), (label, np.arange(len(label)))), shape)
