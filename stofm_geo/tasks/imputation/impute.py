"""Imputation of genes missing from a panel, from a reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.cluster import KMeans
from torch_geometric.data import Data

from stofm_geo._anndata_checks import check_positions, check_slice_key, check_target
from stofm_geo._keys import Keys
from stofm_geo._linalg import row_sums
from stofm_geo._slices import label_slices
from stofm_geo._storable import storable_frame
from stofm_geo._validation import error_context, preview
from stofm_geo.genes import PCAFeatures
from stofm_geo.nn import niche_features
from stofm_geo.tasks._reference import (
    HERE,
    THERE,
    TOO_FEW,
    check_spatial_key,
    counts_of,
    row_order,
    with_shared_genes,
)
from stofm_geo.tasks.imputation.blending import BLENDS, ClusterMeans, RidgeKnn, blend, correlations
from stofm_geo.transforms import SpatialKNN

_COMPONENTS, _NEIGHBOURS = 100, 12
_BLOCKS = 4  # of the reference, each held out once
_NICHE_WEIGHTS, _CLUSTER_WEIGHTS = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75)
_CHUNK = 200  # genes held as a dense matrix at once


def impute(
    adata: AnnData,
    reference: AnnData,
    genes: Sequence[str] | None = None,
    *,
    key_added: str = Keys.IMPUTED,
    slice_key: str | None = None,
    layer: str | None = None,
    reference_layer: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    organism: str | None = None,
) -> None:
    """Estimate the expression of genes that the panel lacks, in place.

    Features of cells are principal components of the shared genes, centred within each AnnData,
    which removes differences between platforms. Each gene is predicted by ridge regression and by
    the mean of the 50 nearest cells of the reference, and the two are blended. If both AnnData have
    positions, the same is done with the components beside their means over one and two steps of the
    neighbour graph (:func:`stofm_geo.nn.niche_features`), and the two results are blended. The last
    part of the blend is the mean of cell clusters, 8 to 64 of them. Regularisation strengths and
    weights are chosen on held-out blocks of the reference.

    Written are ``obsm[key_added]``, a DataFrame ``[n, genes]`` float32, in units of
    :math:`\\log(1 + s\\,c_{ig} / \\sum_h c_{ih})`, where the sum is over the shared genes and
    :math:`s` is its median in the reference; and ``uns[key_added]`` with ``scale`` (:math:`s`),
    ``n_shared_genes`` and ``reliability``, a DataFrame. Its column ``correlation`` is the Pearson
    correlation of predicted and measured values of each gene on held-out blocks of the reference;
    measured values include counting noise, so it is low for rare genes. The columns of the
    estimates are the genes, but with ``_`` for ``/``, which a file cannot hold in a name:
    ``MZT2A/B`` becomes ``MZT2A_B``. The index of ``reliability`` has the original names in the same
    order.

    Args:
        adata: Cells with raw counts in ``X``.
        reference: Cells with raw counts of the genes in ``X``, from a slice or dissociated.
        genes: Genes to estimate; ``None`` (default): all genes of the reference that ``adata``
            lacks. With ``organism``, human Ensembl ids. Measured values of these genes in ``adata``
            are ignored.
        key_added: Key in ``obsm`` and ``uns`` that is written.
        slice_key: Column of ``obs``, in one AnnData or both, with the slice of each cell.
        layer: Layer of ``adata`` with its raw counts; ``None``: they are in ``X``.
        reference_layer: Layer of ``reference`` with its raw counts; ``None``: they are in ``X``.
        spatial_key: Key in ``obsm`` of the positions, if there are any.
        organism: ``"auto"``, ``"human"`` or ``"mouse"`` converts the genes of both AnnData to human
            Ensembl ids first (:func:`stofm_geo.genes.harmonize`); ``None`` (default) compares the
            names as they are.

    Warns:
        UserWarning: There are fewer than 50 shared genes, or they do not vary together in the
            reference as they do in ``adata``, which may be another tissue; or cells have no
            counts of them, and get the mean of the other cells.

    Raises:
        KeyError: The reference lacks one of ``genes``, or both AnnData lack ``slice_key`` or a
            non-default ``spatial_key``.
        TypeError: ``adata`` or ``reference`` is not an AnnData.
        ValueError: There are five shared genes or fewer, no gene to estimate, fewer than eight
            cells in the reference, or all of them at the same position; or counts are invalid.

    Examples:
        >>> from stofm_geo import datasets, tl
        >>> adata = datasets.toy_tissue(200, 62, seed=0)
        >>> panel, reference = adata[:100, :60].copy(), adata[100:].copy()
        >>> tl.impute(panel, reference)
        >>> panel.obsm["stofm_imputed"].shape, panel.obsm["stofm_imputed"].columns.tolist()
        ((100, 2), ['Gene0061', 'Gene0062'])
    """
    check_target(adata, key_added, spatial_key=spatial_key)
    here, there, shared = with_shared_genes(adata, reference, organism, layer, reference_layer)
    wanted = _wanted(here, there, genes)
    shared = np.setdiff1d(shared, wanted)
    if len(shared) <= TOO_FEW:
        raise ValueError(
            f"without the requested genes, {len(shared)} shared ones are left, and more than "
            f"{TOO_FEW} are needed; request fewer at a time"
        )
    _check_slices(here, there, slice_key)
    check_spatial_key(spatial_key, here, there)
    full = np.diff(counts_of(here, shared, HERE).indptr) > 0
    if not full.any():
        raise ValueError(f"none of {len(full)} cells has counts of the {len(shared)} shared genes")
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} cells have no counts of shared genes and get the "
            "mean of the other cells",
            stacklevel=2,
        )
    here = here[full]
    counts = counts_of(there, shared, THERE)
    there = there[[row for row in row_order(counts) if counts.indptr[row + 1] > counts.indptr[row]]]
    if there.n_obs < 2 * _BLOCKS:
        raise ValueError(
            f"the reference has {there.n_obs} cells with counts of shared genes; {2 * _BLOCKS} or "
            "more are needed"
        )
    known_counts = counts_of(there, shared, THERE)
    target_counts = counts_of(there, wanted, THERE)
    both = [AnnData(counts_of(here, shared, HERE)), AnnData(known_counts)]
    for counts_only in both:
        counts_only.var_names = shared
    encoder = PCAFeatures(_COMPONENTS).fit(both)
    query, known = (_centred(encoder, counts_only) for counts_only in both)
    feature_sets = [(known, query)]
    if spatial_key in here.obsm and spatial_key in there.obsm:
        feature_sets.append(
            (
                _niches(there, THERE, known, spatial_key, slice_key),
                _niches(here, HERE, query, spatial_key, slice_key),
            )
        )
    block = _blocks(there, known, spatial_key, slice_key)
    total = row_sums(known_counts)
    scale = float(np.median(total[total > 0]))
    logs = sp.csc_matrix(
        sp.diags(scale / np.where(total > 0, total, 1)) @ target_counts, dtype=np.float64
    ).log1p()
    # Predictors in the order of _Recipe.mix: one per feature set, then the cluster means.
    methods = [(RidgeKnn, features) for features in feature_sets] + [
        (ClusterMeans, feature_sets[0])
    ]
    held_out = [_held_out(method, known, block) for method, (known, _) in methods]
    recipe = _choose(held_out, block, logs)
    fitted = [method(*features) for method, features in methods]
    values = np.empty((len(full), len(wanted)), dtype=np.float32)
    reliability = np.empty(len(wanted))
    for start in range(0, len(wanted), _CHUNK):
        y = logs[:, start : start + _CHUNK].toarray()
        predictions = [_held_out_predictions(folds, block, y) for folds in held_out]
        reliability[start : start + _CHUNK] = correlations(recipe.mix(predictions), y)
        estimates = recipe.mix([predictor.predict(y) for predictor in fitted]).clip(min=0)
        values[:, start : start + _CHUNK] = estimates.mean(axis=0)
        values[full, start : start + _CHUNK] = estimates
    adata.obsm[key_added] = storable_frame(values, adata.obs_names, wanted, f"obsm[{key_added!r}]")
    adata.uns[key_added] = {
        "scale": scale,
        "n_shared_genes": len(shared),
        "reliability": pd.DataFrame({"correlation": reliability}, index=wanted),
    }


def _wanted(here: AnnData, there: AnnData, genes: Sequence[str] | None) -> np.ndarray:
    """Return the names of the genes to estimate, in the given order."""
    if genes is None:
        wanted = there.var_names[~there.var_names.isin(here.var_names)].to_numpy(dtype=str)
        if not len(wanted):
            raise ValueError(
                f"adata has all {there.n_vars} genes of the reference; name the genes to "
                "estimate, or use a reference with more genes"
            )
        return wanted
    wanted = pd.unique(np.asarray([genes] if isinstance(genes, str) else list(genes), dtype=str))
    lacking = wanted[~np.isin(wanted, there.var_names.to_numpy(dtype=str))]
    if len(lacking):
        raise KeyError(
            f"the reference lacks {len(lacking)} of the {len(wanted)} requested genes "
            f"({preview(lacking)}); its var_names are {preview(there.var_names)}"
        )
    if not len(wanted):
        raise ValueError("genes is empty; name the genes to estimate, or omit it for all")
    return wanted


def _check_slices(here: AnnData, there: AnnData, slice_key: str | None) -> None:
    if slice_key is not None and slice_key not in there.obs:
        check_slice_key(here.obs, slice_key)


def _centred(encoder: PCAFeatures, cells: AnnData) -> np.ndarray:
    """Return centred principal components with their variances, ``[n, components]`` float64."""
    z = encoder.transform(cells).astype(np.float64) * encoder.scale
    return z - z.mean(axis=0)


def _slices(
    cells: AnnData, positions: np.ndarray, spatial_key: str, slice_key: str | None
) -> np.ndarray:
    slice_key = slice_key if slice_key in cells.obs else None
    return label_slices(cells, positions, spatial_key, slice_key).codes


def _niches(
    cells: AnnData, name: str, z: np.ndarray, spatial_key: str, slice_key: str | None
) -> np.ndarray:
    """Return features and their means over one and two hops, ``[n, 3 F]``."""
    with error_context(name):
        pos = check_positions(cells, spatial_key)
        slices = _slices(cells, pos, spatial_key, slice_key)
    data = Data(pos=torch.from_numpy(pos), slice_id=torch.from_numpy(slices))
    graph = SpatialKNN(_NEIGHBOURS)(data).edge_index
    return niche_features(torch.from_numpy(z), graph).numpy()


def _blocks(cells: AnnData, z: np.ndarray, spatial_key: str, slice_key: str | None) -> np.ndarray:
    """Return the block of each cell, ``[n]``, in space, or interleaved without positions."""
    if spatial_key not in cells.obsm:
        return np.arange(len(z)) % _BLOCKS
    with error_context(THERE):
        pos = check_positions(cells, spatial_key)
        slices = _slices(cells, pos, spatial_key, slice_key)
    block = np.zeros(len(z), dtype=np.int64)
    for s in np.unique(slices):
        rows = np.flatnonzero(slices == s)
        count = min(_BLOCKS, len(np.unique(pos[rows], axis=0)))
        block[rows] = KMeans(count, n_init=3, random_state=0).fit_predict(pos[rows])
    if not block.any():
        raise ValueError(
            f"all {len(pos)} cells of the reference have the same position; delete "
            f"obsm[{spatial_key!r}] if it has no positions"
        )
    return block


def _held_out(
    method: type[RidgeKnn] | type[ClusterMeans], features: np.ndarray, block: np.ndarray
) -> list:
    """Return one predictor per block, fitted on the other blocks."""
    return [method(features[block != b], features[block == b]) for b in np.unique(block)]


def _held_out_predictions(folds: list, block: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the predictions of each cell from the other blocks, ``[predictions, n, G]``."""
    by_block = [
        fold.predict(y[block != b]) for b, fold in zip(np.unique(block), folds, strict=True)
    ]
    predictions = np.empty((len(by_block[0]), *y.shape))
    for b, block_predictions in zip(np.unique(block), by_block, strict=True):
        predictions[:, block == b] = block_predictions
    return predictions


@dataclass(frozen=True)
class _Recipe:
    """Weights by which the predictions of several methods are mixed.

    Attributes:
        blends: One of :data:`BLENDS` for each feature set.
        niches: Weight of the last feature set against the first.
        clusters: Weight of the cluster means against the feature sets.
    """

    blends: tuple[tuple[int, float], ...]
    niches: float = 0.0
    clusters: float = 0.0

    def mix(self, predictions: list[np.ndarray]) -> np.ndarray:
        """Mix the predictions of each feature set and of the cluster means, ``[n, G]``."""
        *by_features, by_clusters = predictions
        blended = [blend(p, choice) for p, choice in zip(by_features, self.blends, strict=True)]
        mixed = (1 - self.niches) * blended[0] + self.niches * blended[-1]
        return (1 - self.clusters) * mixed + self.clusters * by_clusters[0]


def _choose(held_out: list[list], block: np.ndarray, logs: sp.csc_matrix) -> _Recipe:
    """Return the recipe with the best mean correlation on held-out blocks, chosen greedily."""
    genes = np.linspace(0, logs.shape[1] - 1, min(_CHUNK, logs.shape[1])).astype(int)
    y = logs[:, genes].toarray()
    predictions = [_held_out_predictions(folds, block, y) for folds in held_out]

    def best(recipes: list[_Recipe], predictions: list[np.ndarray]) -> _Recipe:
        return max(recipes, key=lambda recipe: correlations(recipe.mix(predictions), y).mean())

    single = [_Recipe((choice,)) for choice in BLENDS]
    blends = tuple(
        best(single, [predictions, predictions[-1]]).blends[0] for predictions in predictions[:-1]
    )
    niches = _NICHE_WEIGHTS if len(blends) > 1 else (0.0,)
    chosen = best([_Recipe(blends, weight) for weight in niches], predictions)
    return best([replace(chosen, clusters=weight) for weight in _CLUSTER_WEIGHTS], predictions)
