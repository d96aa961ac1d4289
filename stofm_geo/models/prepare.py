"""AnnData as a model with these settings takes them: slices, and what makes features of cells."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from anndata import AnnData

from stofm_geo._checks import naming
from stofm_geo.data import split_slices
from stofm_geo.genes import CellFeatures, ObsmFeatures, PanelEncoder, PCAFeatures, harmonize
from stofm_geo.genes.counts import warn_of_row_numbers
from stofm_geo.networks.config import SToFMConfig


def split(
    adata: AnnData,
    config: SToFMConfig,
    features_key: str | None,
    *,
    spatial_key: str,
    slice_key: str | None,
    name: str,
    genes: Collection[str] | None = None,
) -> list[AnnData]:
    """The slices of an AnnData, genes under the names that the model goes by.

    Args:
        adata: Cells or spots.
        config: Of the model.
        features_key: Key in ``obsm`` of the features; ``None``: counts in ``X`` are used.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one.
        name: What messages call ``adata``.
        genes: What features are made of, after that; ``None``: of all.

    Returns:
        See :func:`~stofm_geo.data.split_slices`.

    Raises:
        KeyError, TypeError, ValueError: Input that does not fit; the message says what.
    """
    if config.organism is not None and features_key is None:
        with naming(name):
            adata = harmonize(adata, config.organism)
    return split_slices(
        adata,
        features_key=features_key,
        spatial_key=spatial_key,
        slice_key=slice_key,
        name=name,
        min_cells=config.k + 1,
        genes=genes,
    )


def untrained_features(config: SToFMConfig, key: str | None, slices: list[AnnData]) -> CellFeatures:
    """What makes features: fitted to the slices, but for what the network learns with it.

    Args:
        config: Of the model.
        key: Key in ``obsm`` of ready-made vectors; ``None``: they are made of counts.
        slices: Of :func:`split`.

    Warns:
        UserWarning: Genes have no names but numbers.
    """
    if key is not None:
        return ObsmFeatures(key).fit(slices)
    warn_of_row_numbers(slices[0].var_names)
    if config.encoder == "panel":
        # A niche is three times as many numbers: own, near, far.
        return PanelEncoder.from_slices(
            slices,
            out_channels=config.out_channels // 3,
            n_components=config.n_components,
        )
    return PCAFeatures(config.n_components).fit(slices)


def emptied(slices: list[AnnData], genes: Collection[str] | None) -> bool:
    """Return whether cells of :func:`split` have no counts of these genes, which features need."""
    if genes is None:
        return False
    used = (part.X[:, part.var_names.isin(genes)] for part in slices)
    return any((np.diff(counts.indptr) == 0).any() for counts in used)
