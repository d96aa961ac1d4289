"""Cells without counts, which take the result of their nearest cells with counts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

_TIE = 1 + 1e-6  # of a lattice, all that are as near as the last are asked


def nearest_full(pos: np.ndarray, slices: np.ndarray, full: np.ndarray, k: int) -> sp.csr_matrix:
    """Return the adjacency from cells without counts to their nearest cells with counts.

    Args:
        pos: Of all cells, ``[n, 2]``.
        slices: Number of each cell's slice, ``[n]``.
        full: Which cells have counts, ``[n]`` bool.
        k: How many stand in for a cell; more where several are as near as the last, fewer where a
            slice has fewer, none where it has none.

    Returns:
        ``[n, n]``; the rows of full cells are empty.
    """
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in np.unique(slices[~full]):
        empty = np.flatnonzero((slices == number) & ~full)
        known = np.flatnonzero((slices == number) & full)
        if not len(known):
            continue
        most = min(2 * k, len(known))  # a few more, for ties
        far, near = cKDTree(pos[known]).query(pos[empty], k=np.arange(1, most + 1))
        asked = far <= far[:, [min(k, most) - 1]] * _TIE
        rows.append(np.repeat(empty, asked.sum(axis=1)))
        columns.append(known[near[asked]])
    at = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(at[0])), at), shape=(len(pos), len(pos)))
