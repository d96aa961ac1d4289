"""AnnData as a model takes them: checked, split into slices, and their graphs, made once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndatas
from stofm_geo._keys import Keys
from stofm_geo._validation import error_context
from stofm_geo.data import SubSliceDataset, TissueSlice, split_slices
from stofm_geo.genes import (
    CellFeatures,
    ObsmFeatures,
    PanelEncoder,
    PCAFeatures,
    encoders,
    harmonize,
)
from stofm_geo.genes.counts import counts_from_layer, warn_if_row_numbers
from stofm_geo.networks.config import SToFMConfig


class SpatialKeys(TypedDict, total=False):
    """Where an AnnData has its positions and slices."""

    spatial_key: str
    slice_key: str | None


class SliceKeys(SpatialKeys, total=False):
    """The same, and where its counts are."""

    layer: str | None


class SliceOptions(SliceKeys, total=False):
    """The same, and the name of the AnnData in messages."""

    name: str


class PreparedTissue:
    """An AnnData that was checked and split into slices, for several steps.

    Made by :meth:`stofm_geo.SToFM.prepare`. What is computed of the slices for an encoder
    (features, neighbour graph, macro nodes) is kept and used again.

    Args:
        adata: Cells or spots; results are written into it.
        config: Configuration of the model.
        use_rep: Key in ``obsm`` of the features; ``None``: counts in ``X`` are used.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` with the slice of each cell; ``None``: one slice.
        layer: Layer with the raw counts; ``None``: they are in ``X``.
        name: Name of ``adata`` in messages.
        genes: Genes that features are made of; ``None``: all.

    Attributes:
        adata: As given.
        slices: Its slices, with genes under the names that the model uses.

    Raises:
        KeyError, TypeError, ValueError: Input that does not fit; the message says what.
    """

    def __init__(
        self,
        adata: AnnData,
        config: SToFMConfig,
        use_rep: str | None = None,
        *,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        name: str = "AnnData",
        genes: Collection[str] | None = None,
    ) -> None:
        self.adata, self.config, self.use_rep = adata, config, use_rep
        self.spatial_key, self.slice_key, self.name = spatial_key, slice_key, name
        self.layer = layer
        self.slices: list[TissueSlice] = []
        self._made: tuple[CellFeatures, list[SubSliceDataset]] | None = None
        self._split(genes)

    def _split(self, genes: Collection[str] | None) -> None:
        self._genes = genes
        adata = self.adata
        if self.layer is not None:
            with error_context(self.name):
                if self.use_rep is not None:
                    raise ValueError(
                        f"layer={self.layer!r} and use_rep={self.use_rep!r}; give one of them: "
                        "features come from counts or from vectors"
                    )
                adata = counts_from_layer(adata, self.layer)
        if self.config.organism is not None and self.use_rep is None:
            with error_context(self.name):
                adata = harmonize(adata, self.config.organism)
        self.slices = split_slices(
            adata,
            features_key=self.use_rep,
            spatial_key=self.spatial_key,
            slice_key=self.slice_key,
            name=self.name,
            min_cells=self.config.k + 1,
            genes=genes,
        )

    def drop_empty(self, genes: Collection[str] | None) -> None:
        """Split again where cells have no counts of these genes, which features are made of."""
        if genes is None or genes is self._genes:
            return
        if any(_has_empty(part, genes) for part in self.slices):
            self._made = None
            self._split(genes)
        self._genes = genes

    def subslices(self, encoder: CellFeatures) -> list[SubSliceDataset]:
        """Return the sub-slices of each slice; computed once for an encoder."""
        if self._made is None or not _alike(self._made[0], encoder):
            options = self.config.subslice_options
            self._made = (
                encoder,
                [SubSliceDataset(part, encoder, **options) for part in self.slices],
            )
        return self._made[1]


Tissues: TypeAlias = AnnData | PreparedTissue | Sequence[AnnData | PreparedTissue]


def list_of(tissues: Tissues, name: str = "adata") -> list[AnnData] | list[PreparedTissue]:
    """Return one or several AnnData, or prepared ones, as a list.

    Raises:
        TypeError: Something else, or both kinds.
        ValueError: The list is empty.
    """
    if isinstance(tissues, PreparedTissue):
        return [tissues]
    if isinstance(tissues, AnnData) or not any(isinstance(t, PreparedTissue) for t in tissues):
        return check_anndatas(tissues, name)
    if strange := [one for one in tissues if not isinstance(one, PreparedTissue)]:
        found = type(strange[0]).__name__
        raise TypeError(f"{name} must be all AnnData or all prepared; found {found}, too")
    return list(tissues)


def _alike(a: CellFeatures, b: CellFeatures) -> bool:
    """Return whether two encoders give the same sub-slices."""
    if a is b or a.module is None or b.module is None:
        return a is b
    # Weights make no difference: a sub-slice has components, and the network makes features.
    return a.module.genes.equals(b.module.genes) and a.module.technologies == b.module.technologies


def _has_empty(part: TissueSlice, genes: Collection[str]) -> bool:
    counts = part.adata.X[:, part.adata.var_names.isin(genes)]
    return bool((np.diff(counts.indptr) == 0).any())


def fit_encoder(
    config: SToFMConfig, use_rep: str | None, slices: list[TissueSlice]
) -> CellFeatures:
    """Make the encoder of a configuration and fit it, except for what the network trains.

    Args:
        config: Configuration of the model.
        use_rep: Key in ``obsm`` of ready-made vectors; ``None``: they are made of counts.
        slices: Slices to fit to.

    Warns:
        UserWarning: Genes have no names but numbers.
    """
    adatas = [part.adata for part in slices]
    if use_rep is not None:
        return ObsmFeatures(use_rep).fit(adatas)
    warn_if_row_numbers(adatas[0].var_names)
    if config.objectives == "molecules":
        if config.encoder == "pca":
            return PCAFeatures(config.n_components).fit_molecules(adatas)
        return PanelEncoder.from_slices(
            adatas,
            n_components=config.n_components,
            out_channels=config.feature_channels,
            molecules=True,
        )
    return encoders.make_encoder(
        config.encoder,
        adatas,
        n_components=config.n_components,
        out_channels=config.feature_channels,
    )
