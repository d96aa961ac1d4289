"""Mean expression of the cells that are most similar to a cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from stofm_geo._linalg import row_sums

_MOST_CELLS = 10_000  # among which similar ones are sought


class SimilarCells:
    """Mean fractions of the molecules of the cells most similar to each cell.

    As in k-nearest-neighbour smoothing (Wagner et al. 2017, doi:10.1101/217737), but similar are
    cells whose denoised components are near. A cell with counts is its own most similar one; among
    more than 10 000 cells, similar ones are sought among as many drawn at random.

    Args:
        components: Denoised components, in units in which all count alike, ``[n, F]``.
        counts: Counts of the same cells, ``[n, G]``.
        most: Number of similar cells at most; fewer where there are fewer cells with counts.
    """

    def __init__(self, components: np.ndarray, counts: sp.csr_matrix, most: int) -> None:
        total = row_sums(counts)
        pool = np.flatnonzero(total)
        if len(pool) > _MOST_CELLS:
            drawn = np.random.default_rng(0).choice(pool, _MOST_CELLS, replace=False)
            pool = np.sort(drawn)
        self.most = min(most, len(pool))
        self.fractions = sp.csr_matrix(sp.diags_array(1 / total[pool]) @ counts[pool])
        nearest = NearestNeighbors(n_neighbors=self.most, algorithm="brute").fit(components[pool])
        found = nearest.kneighbors(components, return_distance=False)
        self.index = found.astype(np.int32)

    def means(self, rows: slice, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the mean fractions ``[b, G]`` over each of several numbers of similar cells.

        Args:
            rows: Cells.
            numbers: Numbers of similar cells, ascending.
        """
        start, sums = 0, np.zeros((len(self.index[rows]), self.fractions.shape[1]))
        for number in numbers:
            end = min(number, self.most)
            some = self.index[rows, start:end]
            row = np.repeat(np.arange(len(some)), end - start)
            shape = len(some), self.fractions.shape[0]
            member = sp.csr_matrix((np.ones(some.size), (row, some.ravel())), shape)
            sums += (member @ self.fractions).toarray()
            start = end
            yield sums / end
