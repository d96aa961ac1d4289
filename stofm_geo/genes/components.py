"""Principal components of the cells of one slice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from stofm_geo._linalg import (
    BLOCK,
    half_whitening,
    sparse_principal_axes,
    sparse_product,
    sqrt_fractions,
)


@dataclass
class Components:
    r"""Principal components of the cells of one slice.

    .. math::
        v_{ig} = \sqrt{c_{ig} / \textstyle\sum_{g'} c_{ig'}}, \qquad
        t_i = \tfrac1s (v_i - \bar v) L

    with :math:`\bar v` the slice's mean, :math:`s` the root mean square of :math:`\lVert v_i - \bar
    v \rVert` and :math:`L` the first principal axes, halfway whitened: the root mean square of the
    components is 1. Distances between square roots of fractions are Hellinger distances (Legendre &
    Gallagher 2001, doi:10.1007/s004420100716): they need no target depth, and are not dominated by
    a few highly expressed genes. Effects that all cells of a slice share (batch, depth) are removed
    with the mean.

    Attributes:
        scale: :math:`s`.
        panel: Columns of the genes that have counts, ascending, ``[P]``.
        loadings: :math:`L`, ``[P, n_components]`` float32. If the slice has fewer components, it is
            padded with zeros, so that slices can be batched.
        centre: Components of the mean, ``[n_components]`` float32.
    """

    scale: np.float32
    panel: np.ndarray
    loadings: np.ndarray
    centre: np.ndarray

    @classmethod
    def from_blocks(
        cls, blocks: Callable[[], Iterator[sp.csr_matrix]], n_components: int
    ) -> Components:
        """Compute the components of a slice.

        Args:
            blocks: Function that yields the counts ``[b, G]``, float32 CSR, in blocks; called
                twice.
            n_components: Number of components.

        Warns:
            UserWarning: Cells have no counts.
        """
        mean, scale, cells = _centre_and_scale(sqrt_fractions(block) for block in blocks())
        panel = np.flatnonzero(mean)
        count = max(min(n_components, cells - 1, len(panel) - 1), 1)
        full = (block[np.diff(block.indptr) > 0] for block in blocks())
        values = (sqrt_fractions(block)[:, panel] / scale for block in full)
        mean, axes, variance = sparse_principal_axes(values, count)
        loadings = np.zeros((len(panel), n_components), dtype=np.float32)
        loadings[:, :count] = (axes / half_whitening(variance)[:, None]).T
        return cls(scale, panel, loadings, (mean @ loadings).astype(np.float32))

    @classmethod
    def from_counts(cls, counts: sp.csr_matrix, n_components: int) -> Components:
        """Compute the components of counts ``[n, G]`` in memory, as :meth:`from_blocks` does."""
        starts = range(0, counts.shape[0], BLOCK)
        return cls.from_blocks(
            lambda: (counts[first : first + BLOCK] for first in starts), n_components
        )

    def __call__(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the components of cells, ``[n, n_components]`` float32; 0 without counts."""
        values = sqrt_fractions(counts)
        values.data /= self.scale
        loadings = self.loadings
        if len(self.panel) < values.shape[1]:  # rows of zeros are cheaper than to select columns
            loadings = np.zeros((values.shape[1], loadings.shape[1]), dtype=np.float32)
            loadings[self.panel] = self.loadings
        found = sparse_product(values, loadings) - self.centre
        found[np.diff(counts.indptr) == 0] = 0
        return found


def _centre_and_scale(blocks: Iterable[sp.csr_matrix]) -> tuple[np.ndarray, np.float32, int]:
    """Return mean ``[G]`` and scale of the values, and the number of cells with counts."""
    cells, empty, total = 0, 0, np.zeros(1)
    for block in blocks:
        cells += block.shape[0]
        empty += int((np.diff(block.indptr) == 0).sum())
        total = total + np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
    if empty:
        warnings.warn(
            f"{empty} of {cells} cells have no counts and get the vector of an average cell",
            stacklevel=4,
        )
    # Rows of cells with counts have norm 1: the variance is 1 minus the squared norm of the mean.
    full = cells - empty
    mean = total / max(full, 1)
    variance = 1 - np.square(mean).sum()
    # All cells may be identical.
    return mean, np.float32(np.sqrt(variance) if variance > 1e-6 else 1), full
