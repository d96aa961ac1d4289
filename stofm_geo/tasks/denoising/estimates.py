"""Estimated fractions of cells, and how far they are to be trusted."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._keys import Keys
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.models.prepare import SliceKeys
from stofm_geo.models.stofm import SToFM
from stofm_geo.networks.molecules import MoleculeNetwork
from stofm_geo.tasks.denoising.similar_cells import SimilarCells

if TYPE_CHECKING:
    from typing_extensions import Unpack

_NUMBERS = (10, 20, 30, 50)
_WEIGHTS = (0.15, 0.3, 0.5, 0.7)
_ELEMENTS = 2**23  # of a dense array: 64 MiB in double precision


class Blend(NamedTuple):
    """How many similar cells are averaged, and the weight of their mean."""

    number: int
    weight: float


class Estimates:
    """Fractions that are expected of cells, computed in blocks of rows.

    Args:
        model: Model that denoises.
        adata: Cells, into which embeddings are written.
        mean: Mean fractions of the cells, ``[G]``, which those of the estimates are scaled to: the
            model may have been trained on another chemistry.
        progress: Show a progress bar.
        keys: Of :meth:`stofm_geo.SToFM.embed`.

    Attributes:
        blend: Similar cells, which estimates are blended with; at first none.
        slope: How far estimates of a gene are to be trusted, ``[G]`` between 0 and 1; at first 1.
    """

    def __init__(
        self,
        model: SToFM,
        adata: AnnData,
        mean: np.ndarray,
        progress: bool,
        **keys: Unpack[SliceKeys],
    ) -> None:
        model.embed(adata, progress=progress, **keys)
        network = model.state.network
        assert isinstance(network, MoleculeNetwork)
        vectors = adata.obsm[Keys.EMBEDDING]
        self.full = vectors.any(axis=1)
        self.components = network.components(vectors)
        encoder: Any = model.state.encoder  # of a model that predicts molecules
        self.targets: FractionComponents = encoder.fractions
        self.mean, self.slope = mean, np.ones_like(mean)
        self.average = np.zeros(len(mean))  # of what the model expects of these cells
        for rows in row_blocks((len(vectors), len(mean))):
            full = self.components[rows][self.full[rows]]
            self.average += self.targets.decode(full).sum(axis=0) / max(self.full.sum(), 1)
        column = adata.var_names.get_indexer(np.asarray(encoder.genes))
        self.counts = sp.csr_matrix(adata.X)[:, column]
        self.blend = Blend(0, 0.0)

    @cached_property
    def similar(self) -> SimilarCells:
        """Return the similar cells, which are sought when they are first needed."""
        return SimilarCells(self.components * self.targets.widths, self.counts, _NUMBERS[-1])

    def fractions(self, rows: slice) -> np.ndarray:
        """Return fractions ``[b, G]``; the mean for cells without counts."""
        found = self.decoded(rows)
        if self.blend.weight:
            (means,) = self.similar.means(rows, [self.blend.number])
            found += self.blend.weight * (means - found)
        found = self.mean + self.slope * (found - self.mean)
        found[~self.full[rows]] = self.mean
        return found / found.sum(axis=1, keepdims=True)

    def decoded(self, rows: slice) -> np.ndarray:
        """Return the fractions ``[b, G]`` that the model alone expects."""
        found = self.targets.decode(self.components[rows])
        ratio = np.divide(found, self.average, where=self.average > 0, out=np.ones_like(found))
        return self.mean * ratio / (ratio @ self.mean)[:, None]


def calibrate(shown: Estimates, target: sp.csr_matrix) -> tuple[Blend, np.ndarray]:
    """Return similar cells and slopes with which estimates predict other molecules best.

    Args:
        shown: Estimates; those of some molecules of the cells.
        target: Counts of others, ``[n, G]``.

    Returns:
        The blend with the least squared error, each gene's divided by its mean, as Poisson noise
        is; and with it the slopes ``[G]`` of the regression of the other molecules on estimates,
        both as deviations from the mean.
    """
    shown.blend = _best_blend(shown, target)
    product, square = np.zeros((2, target.shape[1]))
    for rows in row_blocks(target.shape):
        counts = target[rows].toarray()
        total = counts.sum(axis=1, keepdims=True)
        deviation = shown.fractions(rows) - shown.mean
        product += ((counts - total * shown.mean) * deviation).sum(axis=0)
        square += (total * deviation**2).sum(axis=0)
    slope = np.divide(product, square, where=square > 0, out=np.zeros_like(square))
    return shown.blend, slope.clip(0, 1).astype(np.float32)


def _best_blend(shown: Estimates, target: sp.csr_matrix) -> Blend:
    errors = dict.fromkeys(
        [Blend(0, 0.0), *(Blend(number, weight) for number in _NUMBERS for weight in _WEIGHTS)], 0.0
    )
    mean = np.where(shown.mean > 0, shown.mean, np.inf)
    for rows in row_blocks(target.shape):
        counts, decoded = target[rows].toarray(), shown.decoded(rows)
        total = counts.sum(axis=1, keepdims=True)
        rest = counts - total * decoded
        # The error is (rest - w total change)^2: three sums give it for all weights w.
        scale = (1 / np.maximum(total, 1)) / mean
        scale[~shown.full[rows]] = 0
        start = np.sum(rest**2 * scale)
        errors[Blend(0, 0.0)] += start
        for number, means in zip(_NUMBERS, shown.similar.means(rows, _NUMBERS), strict=True):
            change = total * (means - decoded)
            product, square = np.sum(rest * change * scale), np.sum(change**2 * scale)
            for weight in _WEIGHTS:
                errors[Blend(number, weight)] += start - 2 * weight * product + weight**2 * square
    return min(errors, key=errors.__getitem__)


def row_blocks(shape: tuple[int, int]) -> list[slice]:
    """Return slices of the rows of a matrix ``[n, G]`` that are held dense at once."""
    n, width = shape
    size = max(1, _ELEMENTS // width)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
