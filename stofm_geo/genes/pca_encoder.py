"""Principal components of square roots of fractions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._linalg import BLOCK, half_whitening, sparse_principal_axes, sqrt_fractions
from stofm_geo._validation import check_positive, preview
from stofm_geo.genes.components import Components
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.shared import counts_of_genes, shared_genes
from stofm_geo.genes.splitting import hold_out

_MIN_SHARED = 0.5  # fraction of the genes of a model that a slice must have


class PCAFeatures:
    """Principal components of square roots of fractions: the default encoder.

    Counts are divided by their sum over the encoder's genes, and their square roots are taken
    (:class:`~stofm_geo.genes.components.Components`); all genes are used, centred, not scaled.
    Components are halfway whitened: each is divided by the square root of its standard deviation,
    and all by their root mean square. The result is deterministic. Cells without counts are
    ignored.

    Args:
        n_components: Maximum number of components (default 50); limited by genes and cells.

    Attributes:
        fractions: Components of fractions of the same genes (:meth:`fit_molecules`), or ``None``.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import PCAFeatures
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> PCAFeatures(8).fit([adata]).transform(adata).shape
        (200, 8)
    """

    key = module = None

    def __init__(self, n_components: int = 50) -> None:
        check_positive("n_components", n_components, whole=True)
        self.n_components = n_components
        self.fractions: FractionComponents | None = None

    @property
    def out_channels(self) -> int:
        """Return the number of components found by :meth:`fit`."""
        return len(self.axes)

    @classmethod
    def from_slices(
        cls, slices: list[AnnData], *, n_components: int, out_channels: int
    ) -> PCAFeatures:
        """See :class:`CountsEncoder`; vectors have as many columns as there are components."""
        return cls(n_components).fit(slices)

    def fit(self, slices: list[AnnData]) -> PCAFeatures:
        """Fit the components of the genes that all slices share, without control probes.

        Raises:
            ValueError: There are fewer than two cells or shared genes, or the counts are invalid
                (see :func:`as_counts`).
        """
        self._fit(self._shared_counts(slices))
        return self

    def fit_molecules(self, slices: list[AnnData]) -> PCAFeatures:
        """Fit the components, and those of fractions, without the molecules that are held out.

        :func:`~stofm_geo.genes.splitting.hold_out` splits them off.

        Args:
            slices: Slices with whole counts in ``X``.

        Raises:
            ValueError: As :meth:`fit`, or counts are not whole.
        """
        held_out, train = zip(*map(hold_out, self._shared_counts(slices)), strict=True)
        self._fit(train)
        self.fractions = FractionComponents.from_counts(train, held_out, self.out_channels)
        return self

    def _shared_counts(self, slices: list[AnnData]) -> list[sp.csr_matrix]:
        """Set the genes to those that all slices share, and return their counts."""
        if sum(adata.n_obs for adata in slices) < 2:
            raise ValueError("principal components need 2 cells or more")
        self.genes = shared_genes(slices)
        return [counts_of_genes(adata, self.genes) for adata in slices]

    def _fit(self, counts: Sequence[sp.csr_matrix]) -> None:
        cells = sum(part.shape[0] for part in counts)
        full = sum(int((np.diff(part.indptr) > 0).sum()) for part in counts)
        if full < 2:
            raise ValueError(
                f"{full} of {cells} cells have counts of the shared genes; at least 2 are needed"
            )
        n_components = max(min(self.n_components, len(self.genes) - 1, full - 1), 1)
        values = (
            sqrt_fractions(block[np.diff(block.indptr) > 0])
            for part in counts
            for block in _blocks(part)
        )
        mean, axes, variance = sparse_principal_axes(values, n_components)
        self.mean = mean.astype(np.float32)
        self.axes = np.ascontiguousarray(axes, dtype=np.float32)
        self.scale = half_whitening(variance).astype(np.float32)

    def transform(self, adata: AnnData) -> np.ndarray:
        """Return the vectors ``[n, out_channels]`` float32; missing genes count as average.

        Raises:
            ValueError: More than half of the encoder's genes are missing.
        """
        present = self._present(adata)
        if present.mean() < _MIN_SHARED:
            raise ValueError(
                f"the model knows {len(self.genes)} genes ({preview(self.genes)}), of which "
                f"var_names ({preview(adata.var_names)}) has {int(present.sum())}; it was "
                "trained for another panel or another kind of gene names; fit a model to slices of "
                "both, which uses their shared genes, or a model with encoder='panel'"
            )
        if not present.all():
            warnings.warn(
                f"{int((~present).sum())} of the model's {len(self.genes)} genes are missing "
                "and count as average",
                stacklevel=2,
            )
        counts = counts_of_genes(adata, self.genes[present])
        components = self._components_of(present)
        scores = np.empty((adata.n_obs, self.out_channels), dtype=np.float32)
        for start, block in zip(range(0, len(scores), BLOCK), _blocks(counts), strict=True):
            scores[start : start + BLOCK] = components(block)
        empty = np.diff(counts.indptr) == 0
        if empty.any():
            warnings.warn(
                f"{int(empty.sum())} of {len(empty)} cells have no counts and get the features "
                "of an average cell",
                stacklevel=2,
            )
        return scores

    def known_counts(self, adata: AnnData) -> sp.csr_matrix:
        """Return the counts of the encoder's genes, ``[n, G]`` float32; 0 for missing genes.

        Columns are in the order of :attr:`genes`.
        """
        present = self._present(adata)
        counts = counts_of_genes(adata, self.genes[present])
        if present.all():
            return counts
        parts = counts.data, np.flatnonzero(present)[counts.indices], counts.indptr
        return sp.csr_matrix(parts, shape=(adata.n_obs, len(self.genes)))

    def fractions_of(self, adata: AnnData) -> FractionComponents | None:
        """Return :attr:`fractions` of :meth:`known_counts`, where missing genes are average."""
        present = self._present(adata)
        if self.fractions is None or present.all():
            return self.fractions
        return self.fractions.of_genes(present)

    def _present(self, adata: AnnData) -> np.ndarray:
        """Return which genes of the encoder are in ``var_names``, ``[G]`` bool."""
        return adata.var_names.get_indexer(self.genes) >= 0

    @property
    def components(self) -> Components:
        """Return the components of the counts of :meth:`known_counts`."""
        return self._components_of(np.ones(len(self.genes), dtype=bool))

    def _components_of(self, genes: np.ndarray) -> Components:
        """Return the components of counts of ``genes``, a mask ``[G]`` bool.

        Square roots of fractions are multiplied by the root of the share of the molecules that an
        average cell has of these genes, since fractions are of all genes.
        """
        loadings = self.axes[:, genes].T / self.scale
        panel = np.arange(np.count_nonzero(genes))
        scale = 1.0
        if not genes.all():
            share = np.square(self.mean[genes]).sum() / np.square(self.mean).sum()
            scale = max(float(share), 1e-9) ** -0.5  # not infinite, if all means are 0
        return Components(np.float32(scale), panel, loadings, self.mean[genes] @ loadings)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See :class:`CellFeatures`."""
        settings = {
            "kind": "pca",
            "n_components": self.n_components,
            "genes": self.genes.tolist(),
        }
        arrays = {"mean": self.mean, "axes": self.axes, "scale": self.scale}
        if self.fractions is not None:
            arrays |= self.fractions.arrays()
        return settings, arrays

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> PCAFeatures:
        """See :class:`CellFeatures`."""
        encoder = cls(settings["n_components"])
        encoder.genes = np.asarray(settings["genes"], dtype=str)
        for name in ("axes", "mean", "scale"):
            array = arrays[name]
            if array.dtype != np.float32:
                raise ValueError(f"{name} of the features are {array.dtype}, not float32")
            setattr(encoder, name, array)
        shapes = encoder.axes.shape, encoder.mean.shape, encoder.scale.shape
        if len(shapes[0]) != 2 or shapes[0][::-1] != (*shapes[1], *shapes[2]):
            raise ValueError(f"axes, mean and scale of the features are {shapes}")
        if shapes[1] != encoder.genes.shape:
            raise ValueError(f"there are {encoder.genes.size} genes, and axes of {shapes[0][1]}")
        if not (encoder.scale > 0).all():
            raise ValueError("scales of the features must be above zero")
        encoder.fractions = FractionComponents.from_arrays(arrays)
        if encoder.fractions is not None:
            encoder.fractions.check(*shapes[0])
        return encoder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_components})"


def _blocks(counts: sp.csr_matrix) -> Iterator[sp.csr_matrix]:
    """Yield blocks of rows, so that intermediate results need not fit in memory."""
    return (counts[start : start + BLOCK] for start in range(0, counts.shape[0], BLOCK))
