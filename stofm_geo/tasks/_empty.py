"""Nearest cells with counts for cells without counts, which get their results."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

_TIE = 1 + 1e-6  # relative tolerance of equal distances, as on a lattice


def nearest_full(pos: np.ndarray, slices: np.ndarray, full: np.ndarray, k: int) -> sp.csr_matrix:
    """Return the adjacency from cells without counts to their nearest cells with counts.

    Args:
        pos: Positions of all cells, ``[n, 2]``.
        slices: Slice index of each cell, ``[n]``.
        full: Mask of cells with counts, ``[n]`` bool.
        k: Number of nearest cells; more if several are as near as the ``k``-th, fewer if the
            slice has fewer cells with counts.

    Returns:
        Adjacency ``[n, n]`` of ones; the rows of cells with counts are empty.
    """
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in np.unique(slices[~full]):
        empty = np.flatnonzero((slices == number) & ~full)
        known = np.flatnonzero((slices == number) & full)
        if not len(known):
            continue
        count = min(2 * k, len(known))  # more than k, for ties
        distance, nearest = cKDTree(pos[known]).query(pos[empty], k=np.arange(1, count + 1))
        within = distance <= distance[:, [min(k, count) - 1]] * _TIE
        rows.append(np.repeat(empty, within.sum(axis=1)))
        columns.append(known[nearest[within]])
    entries = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(entries[0])), entries), shape=(len(pos), len(pos)))
