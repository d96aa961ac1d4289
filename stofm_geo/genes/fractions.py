"""Principal components of gene fractions, which a part of the molecules estimates without bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from stofm_geo._linalg import BLOCK, half_whitening, row_sums, sparse_principal_axes, sparse_product

_PREFIX = "fraction_"  # of the names of stored arrays
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
        signal: Variance :math:`\lambda` over cells of what is expression, before components are
            divided by :math:`s`, ``[components]`` float32; a cautious estimate, one standard error
            below the mean.
        noise: Variance of the rest times the number of molecules :math:`\nu`, ``[components]``
            float32: the geometric mean of 1, that of Poisson noise, and of the value for the
            molecules that axes were fitted to, which is larger where they fit noise.
    """

    mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    signal: np.ndarray
    noise: np.ndarray

    @classmethod
    def from_counts(
        cls,
        slices: Sequence[sp.csr_matrix],
        held_out: Sequence[sp.csr_matrix],
        n_components: int,
    ) -> FractionComponents:
        """Compute the components of the cells of all slices.

        Variances of the components overstate expression, since axes are chosen among noisy ones.
        The covariance with held-out molecules of the same cells does not.

        Args:
            slices: Counts ``[n, G]`` of each slice.
            held_out: Other molecules of the same cells, ``[n, G]``
                (:func:`~stofm_geo.genes.splitting.split_counts`).
            n_components: Number of components, below the number of cells and of genes.
        """
        mean = mean_fractions(slices)
        weight = sp.diags_array(_inverse(np.sqrt(mean)))
        blocks = (sp.csr_matrix(block @ weight) for block in _fractions(slices))
        _, axes, variance = sparse_principal_axes(blocks, n_components)
        scale = half_whitening(variance)
        nothing = np.zeros_like(scale)
        arrays = mean, np.ascontiguousarray(axes.T), scale, nothing, nothing + 1
        found = cls(*(array.astype(np.float32) for array in arrays))
        found._set_signal_and_noise(slices, held_out)
        return found

    def _set_signal_and_noise(
        self, slices: Sequence[sp.csr_matrix], others: Sequence[sp.csr_matrix]
    ) -> None:
        """Compute both from the products of two parts of the molecules of cells with both."""
        # Sums of products, of their squares, and of squares of the first part.
        product, spread, square = np.zeros((3, len(self.scale)))
        cells, inverse = 0, 0.0
        for counts, other in zip(slices, others, strict=True):
            for start in range(0, counts.shape[0], BLOCK):
                parts = [part[start : start + BLOCK] for part in (counts, other)]
                totals = [row_sums(part) for part in parts]
                full = (totals[0] > 0) & (totals[1] > 0)
                y, z = (
                    self(part[full], total[full]).astype(np.float64) * self.scale
                    for part, total in zip(parts, totals, strict=True)
                )
                cells += int(full.sum())
                inverse += (1 / totals[0][full]).sum()
                product += (y * z).sum(axis=0)
                spread += np.square(y * z).sum(axis=0)
                square += np.square(y).sum(axis=0)
        if cells < 2:
            return
        mean = product / cells
        error = np.sqrt((spread / cells - mean**2).clip(0) / cells)
        self.signal = (mean - error).clip(0).astype(np.float32)
        # Axes fit the noise of these molecules: their variance overstates the noise of others.
        rest = (square / cells - self.signal) * cells / inverse
        self.noise = np.sqrt(rest.clip(1)).astype(np.float32)

    def padded(self, n_components: int) -> FractionComponents:
        """Return the same components, and others that are always 0, so that slices can be batched.

        Args:
            n_components: Number of components, at least as many as there are.
        """
        more = n_components - len(self.scale)
        return FractionComponents(
            self.mean,
            np.pad(self.axes, ((0, 0), (0, more))),
            np.pad(self.scale, (0, more), constant_values=1),
            np.pad(self.signal, (0, more)),
            np.pad(self.noise, (0, more), constant_values=1),
        )

    def of_genes(self, present: np.ndarray) -> FractionComponents:
        r"""Return components of the counts of some genes, where all others are as in the mean.

        With :math:`q = \sum_{g \text{ present}} m_g`, a fraction among the genes that are present,
        times :math:`q`, is one of all genes.

        Args:
            present: Genes that cells may have counts of, ``[G]`` bool.
        """
        mean = np.where(present, self.mean, 0)
        # Not 0, if the means of all these genes are.
        share = max(float(mean.sum() / self.mean.sum()), 1e-9)
        axes = np.sqrt(share) * self.axes * present[:, None]
        return replace(self, mean=(mean / share).astype(np.float32), axes=axes.astype(np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by names that :meth:`from_arrays` reads."""
        return {_PREFIX + name: array for name, array in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FractionComponents | None:
        """Return the components of :meth:`arrays` among others, or ``None`` if there are none."""
        start = len(_PREFIX)
        own = {name[start:]: array for name, array in arrays.items() if name.startswith(_PREFIX)}
        return cls(**own) if own else None

    def check(self, n_components: int, num_genes: int) -> None:
        """Check the shapes, types and signs of all arrays.

        Raises:
            ValueError: They are not those of as many components and genes.
        """
        shapes = {
            "mean": (num_genes,),
            "axes": (num_genes, n_components),
            "scale": (n_components,),
            "signal": (n_components,),
            "noise": (n_components,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(
                    f"{name} of the fractions is {array.dtype} {array.shape}, not float32 {shape}"
                )
        positive = (self.scale > 0).all() and (self.noise > 0).all()
        if not positive or not (self.signal >= 0).all():
            raise ValueError(
                "scales and noise of the fractions must be above zero, signals not below"
            )

    @property
    def widths(self) -> np.ndarray:
        """Return weights of the components in a loss, ``[components]``; the mean square is 1.

        They are the scales before whitening, times the root of the fraction of the variance that is
        signal: axes of noise would dominate otherwise, since there are many.
        """
        used = self.axes.any(axis=0)
        square = np.square(self.scale)
        variance = square**2 / square[used].mean()  # see half_whitening
        weight = self.scale * np.sqrt((self.signal / variance).clip(_LEAST, 1)) * used
        return weight / np.sqrt(np.square(weight).mean())

    def __call__(self, counts: sp.csr_matrix, total: np.ndarray) -> np.ndarray:
        """Return the components ``[n, components]`` float32 of parts of the molecules of cells.

        Args:
            counts: Counts ``[n, G]`` of a part of the molecules.
            total: Number of molecules that such a part is expected to have, ``[n]``.
        """
        return self.of_sums(self.sums(counts), total)

    def sums(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the sums of the loadings of all molecules, ``[n, components]`` float32.

        Args:
            counts: Counts ``[n, G]`` of a part of the molecules.
        """
        return sparse_product(counts, self._loadings)

    def of_sums(self, sums: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Return the components of the counts whose :meth:`sums` are given.

        Args:
            sums: Sums of loadings ``[n, components]``.
            total: Number of molecules that such counts are expected to have, ``[n]``.
        """
        found = sums / np.maximum(total, 1e-9)[:, None]
        return (found - self.mean @ self._loadings).astype(np.float32)

    def expected(self, counts: sp.csr_matrix) -> np.ndarray:
        r"""Return the expected components of cells given their counts, ``[n, components]`` float32.

        .. math::
            \hat y_{ik} = \frac{\lambda_k}{\lambda_k + \nu_k / n_i} \, y_{ik}

        with :math:`\lambda` the :attr:`signal`, :math:`\nu` the :attr:`noise` and :math:`n_i` the
        number of molecules of the cell: the Wiener filter. Axes that are nothing but noise give 0,
        as do cells without counts.

        Args:
            counts: Counts ``[n, G]``.
        """
        return self.expected_of_sums(self.sums(counts), row_sums(counts))

    def expected_of_sums(self, sums: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Return :meth:`expected` of the counts whose :meth:`sums` are given.

        Args:
            sums: Sums of loadings ``[n, components]``.
            total: Number of molecules of each cell, ``[n]``.
        """
        strength = total[:, None] * self.signal / self.noise
        return self.of_sums(sums, total) * (strength / (1 + strength)).astype(np.float32)

    @property
    def _loadings(self) -> np.ndarray:
        root = np.sqrt(self.mean)
        return (_inverse(root)[:, None] * self.axes / self.scale).astype(np.float32)

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
            total = row_sums(block)
            yield sp.csr_matrix(sp.diags_array(1 / total[total > 0]) @ block[total > 0])


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1, values, where=values > 0, out=np.zeros_like(values))
