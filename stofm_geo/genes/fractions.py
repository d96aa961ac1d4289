"""Principal components of gene fractions, which a part of the molecules estimates without bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from stofm_geo._linalg import BLOCK, half_whitening, sparse_principal_axes

_LEAST = 1e-3  # of a gene's mean fraction: expression is not below


@dataclass
class FractionComponents:
    r"""Principal components of gene fractions, scaled to equal noise.

    .. math::
        y_{ik} = \tfrac{1}{s_k} \textstyle\sum_g \frac{f_{ig} - m_g}{\sqrt{m_g}} A_{gk}

    with :math:`f_i` the fractions of a cell's molecules and :math:`m` their mean over cells. A
    Poisson count has noise in proportion to its mean: divided by :math:`\sqrt{m_g}`, all genes
    have about the same, so that principal axes :math:`A` find what is more than noise. The
    components are halfway whitened by :math:`s`. They are linear in the counts: the mean over
    random parts of a cell's molecules is the value of the whole cell.

    Attributes:
        mean: Mean fractions :math:`m`, ``[G]`` float32.
        axes: Principal axes :math:`A`, ``[G, components]`` float32.
        scale: Divisors :math:`s`, ``[components]`` float32.
    """

    mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_counts(cls, slices: Sequence[sp.csr_matrix], n_components: int) -> FractionComponents:
        """Compute the components of the cells of all slices, counts ``[n, G]`` each.

        Args:
            slices: Counts.
            n_components: Number of components, below the number of cells and of genes.
        """
        mean = mean_fractions(slices)
        weight = sp.diags_array(_inverse(np.sqrt(mean)))
        blocks = (sp.csr_matrix(block @ weight) for block in _fractions(slices))
        _, axes, variance = sparse_principal_axes(blocks, n_components)
        arrays = mean, np.ascontiguousarray(axes.T), half_whitening(variance)
        return cls(*(array.astype(np.float32) for array in arrays))

    @property
    def widths(self) -> np.ndarray:
        """Return the scale of the components before whitening; the mean square is 1."""
        return self.scale / np.sqrt(np.square(self.scale).mean())

    def __call__(self, counts: sp.csr_matrix, total: np.ndarray) -> np.ndarray:
        """Return the components ``[n, components]`` float32 of parts of the molecules of cells.

        Args:
            counts: Counts ``[n, G]`` of a part of the molecules.
            total: Number of molecules that such a part is expected to have, ``[n]``.
        """
        root = np.sqrt(self.mean)
        loadings = (_inverse(root)[:, None] * self.axes / self.scale).astype(np.float32)
        found = (counts @ loadings) / np.maximum(total, 1e-9)[:, None]
        return (found - self.mean @ loadings).astype(np.float32)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Return the fractions ``[n, G]`` float32 of components; above zero, with sum 1."""
        found = (y * self.scale) @ self.axes.T * np.sqrt(self.mean) + self.mean
        found = np.maximum(found, _LEAST * self.mean)
        return (found / found.sum(axis=1, keepdims=True)).astype(np.float32)


def mean_fractions(slices: Sequence[sp.csr_matrix]) -> np.ndarray:
    """Return the mean fraction of each gene over the cells with counts, ``[G]`` float64.

    Args:
        slices: Counts ``[n, G]`` each, of one cell with counts or more.
    """
    total, cells = np.zeros(slices[0].shape[1]), 0
    for block in _fractions(slices):
        total += np.asarray(block.sum(axis=0)).ravel()
        cells += block.shape[0]
    return total / cells


def _fractions(slices: Sequence[sp.csr_matrix]) -> Iterator[sp.csr_matrix]:
    """Yield the fractions of cells with counts, in blocks of rows."""
    for counts in slices:
        for start in range(0, counts.shape[0], BLOCK):
            block = counts[start : start + BLOCK]
            total = np.asarray(block.sum(axis=1)).ravel()
            yield sp.csr_matrix(sp.diags_array(1 / total[total > 0]) @ block[total > 0])


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1, values, where=values > 0, out=np.zeros_like(values))
