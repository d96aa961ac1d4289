"""Imputation of genes that a panel lacks, from a reference."""

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
from stofm_geo._slices import label_slices
from stofm_geo._storable import storable_frame
from stofm_geo._validation import error_context, preview
from stofm_geo.genes import PCAFeatures
from stofm_geo.nn import niche_features
from stofm_geo.tasks._reference import (
    FEW,
    HERE,
    THERE,
    check_spatial_key,
    counts_of,
    row_order,
    shared_genes,
)
from stofm_geo.tasks.imputation.blending import BLENDS, ClusterMeans, RidgeKnn, blend, correlations
from stofm_geo.transforms import SpatialKNN

_COMPONENTS, _NEIGHBOURS = 100, 12
_BLOCKS = 4  # of the reference, each held out once
_OF_NICHES, _OF_KINDS = (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75)  # shares
_CHUNK = 200  # genes that are dense at once


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
    """Estimate genes that the panel lacks, and the reliability of each estimate, in place.

    Cells become principal components of the genes that both sides share, each side about its own
    mean, which takes out what differs between platforms. From these a gene is told in two ways,
    by ridge regression and as the mean of the 50 most alike cells of the reference, which are
    blended. If both sides have positions, the same is done from the components beside their means
    over one and two steps on the tissue (:func:`stofm_geo.nn.niche_features`), and the two are
    blended. Beside them stand means of kinds of cells, 8 to 64 of them. Strengths and shares
    are those that do best on held-out blocks of the reference.

    Args:
        adata: Cells, raw counts in ``X``.
        reference: Cells that have the genes, raw counts in ``X``: another slice, or dissociated
            ones.
        genes: Which to estimate; ``None`` (default): all that the reference has and ``adata`` has
            not. With ``organism``, human Ensembl ids. Genes that ``adata`` has are estimated as if
            it had not.
        key_added: Key in ``obsm``, and in ``uns``, that is written.
        slice_key: Column of ``obs``, of either side or both, that tells slices apart.
        layer: Layer of ``adata`` with its raw counts; ``None``: they are in ``X``.
        reference_layer: Layer of ``reference`` with its raw counts; ``None``: they are in ``X``.
        spatial_key: Key in ``obsm`` of positions, where they are there.
        organism: ``"auto"``, ``"human"`` or ``"mouse"`` makes human Ensembl ids of both sides'
            genes first (:func:`stofm_geo.genes.harmonize`); ``None`` (default): names are compared
            as they are.

    Writes ``obsm[key_added]``, a DataFrame ``[n, genes]`` float32, in units of
    :math:`\\log(1 + s\\,c_{ig} / \\sum_h c_{ih})`, where the sum is over the shared genes and
    :math:`s` is its median in the reference; and ``uns[key_added]``: ``scale`` (:math:`s`),
    ``n_shared_genes``, and ``reliability``, a DataFrame with ``correlation``: Pearson's, of each
    gene's estimates on held-out blocks of the reference with what was counted there. It says how
    well single counts are told, noise and all: rare genes are never told well. Columns are the
    genes; but a file cannot hold names with ``/``, so that ``MZT2A/B`` becomes ``MZT2A_B``. The
    index of ``reliability`` has them in this order as they are.

    Warns:
        UserWarning: There are fewer than 50 shared genes. Cells have no counts of the shared genes;
            they get the mean of the others.

    Raises:
        KeyError: The reference lacks one of ``genes``, or no side has ``slice_key``, or a
            ``spatial_key`` other than ``"spatial"``.
        TypeError: One side is no AnnData.
        ValueError: Five shared genes or fewer, no gene to estimate, fewer than eight cells in the
            reference, all of them at one place, or unfit counts.
    """
    check_target(adata, key_added, spatial_key=spatial_key)
    here, there, shared = shared_genes(adata, reference, organism, layer, reference_layer)
    wanted = _wanted(here, there, genes)
    shared = np.setdiff1d(shared, wanted)
    if len(shared) <= FEW:
        raise ValueError(
            f"without the requested genes, {len(shared)} shared ones are left, and more than {FEW} "
            "are needed; request fewer at a time"
        )
    _check_slices(here, there, slice_key)
    check_spatial_key(spatial_key, here, there)
    full = np.diff(counts_of(here, shared, HERE).indptr) > 0
    if not full.any():
        raise ValueError(f"none of {len(full)} cells has counts of the {len(shared)} shared genes")
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} cells have no counts of shared genes and get the "
            "mean of the others",
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
    known, of_cell = counts_of(there, shared, THERE), counts_of(there, wanted, THERE)
    both = [AnnData(counts_of(here, shared, HERE)), AnnData(known)]
    for one in both:
        one.var_names = shared
    encoder = PCAFeatures(_COMPONENTS).fit(both)
    asked, seen = (_centred(encoder, one) for one in both)
    sides = [(seen, asked)]
    if spatial_key in here.obsm and spatial_key in there.obsm:
        sides.append(
            (
                _niches(there, THERE, seen, spatial_key, slice_key),
                _niches(here, HERE, asked, spatial_key, slice_key),
            )
        )
    block = _blocks(there, seen, spatial_key, slice_key)
    total = np.asarray(known.sum(axis=1)).ravel()
    scale = float(np.median(total[total > 0]))
    logs = sp.csc_matrix(
        sp.diags(scale / np.where(total > 0, total, 1)) @ of_cell, dtype=np.float64
    ).log1p()
    # Kinds last: ways of telling that are blended, each of sides that it reads.
    methods = [(RidgeKnn, side) for side in sides] + [(ClusterMeans, sides[0])]
    held_out = [_held_out(method, known, block) for method, (known, _) in methods]
    recipe = _choose(held_out, block, logs)
    fitted = [method(*side) for method, side in methods]
    values = np.empty((len(full), len(wanted)), dtype=np.float32)
    reliability = np.empty(len(wanted))
    for at in range(0, len(wanted), _CHUNK):
        y = logs[:, at : at + _CHUNK].toarray()
        predictions = [_held_out_predictions(folds, block, y) for folds in held_out]
        reliability[at : at + _CHUNK] = correlations(recipe.mix(predictions), y)
        found = recipe.mix([one.predict(y) for one in fitted])
        found = found.clip(min=0)
        values[:, at : at + _CHUNK] = found.mean(axis=0)
        values[full, at : at + _CHUNK] = found
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
                f"adata has all {there.n_vars} genes of the reference; name those to estimate with "
                "genes, or take a reference with more"
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
        raise ValueError("genes is empty; name those to estimate, or leave it out for all")
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
    """Contiguous blocks of each slice, or, without positions, of kinds mixed evenly, ``[n]``."""
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
            f"all {len(pos)} cells of the reference's slices are at one place; leave "
            f"obsm[{spatial_key!r}] out if it has no positions"
        )
    return block


def _held_out(
    method: type[RidgeKnn] | type[ClusterMeans], features: np.ndarray, block: np.ndarray
) -> list:
    """Return one predictor per block, fitted on the other blocks."""
    return [method(features[block != b], features[block == b]) for b in np.unique(block)]


def _held_out_predictions(folds: list, block: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the predictions of each cell from the other blocks, ``[predictions, n, G]``."""
    parts = [fold.predict(y[block != b]) for b, fold in zip(np.unique(block), folds, strict=True)]
    predictions = np.empty((len(parts[0]), *y.shape))
    for b, part in zip(np.unique(block), parts, strict=True):
        predictions[:, block == b] = part
    return predictions


@dataclass(frozen=True)
class _Recipe:
    """Weights by which the predictions of several methods are mixed.

    Attributes:
        blends: Of :data:`BLENDS`, one a view.
        niches: Share of the last view beside the first.
        kinds: Share of the kinds beside the views.
    """

    blends: tuple[tuple[int, float], ...]
    niches: float = 0.0
    kinds: float = 0.0

    def mix(self, predictions: list[np.ndarray]) -> np.ndarray:
        """Mix the predictions of each feature set and of the cluster means, ``[n, G]``."""
        *views, kinds = predictions
        parts = [
            blend(predictions, one) for predictions, one in zip(views, self.blends, strict=True)
        ]
        mixed = (1 - self.niches) * parts[0] + self.niches * parts[-1]
        return (1 - self.kinds) * mixed + self.kinds * kinds[0]


def _choose(held_out: list[list], block: np.ndarray, logs: sp.csc_matrix) -> _Recipe:
    """Return the recipe with the best mean correlation on held-out blocks, chosen greedily."""
    genes = np.linspace(0, logs.shape[1] - 1, min(_CHUNK, logs.shape[1])).astype(int)
    y = logs[:, genes].toarray()
    predictions = [_held_out_predictions(folds, block, y) for folds in held_out]

    def best(recipes: list[_Recipe], predictions: list[np.ndarray]) -> _Recipe:
        return max(recipes, key=lambda one: correlations(one.mix(predictions), y).mean())

    alone = [_Recipe((one,)) for one in BLENDS]
    blends = tuple(
        best(alone, [predictions, predictions[-1]]).blends[0] for predictions in predictions[:-1]
    )
    niches = _OF_NICHES if len(blends) > 1 else (0.0,)
    chosen = best([_Recipe(blends, share) for share in niches], predictions)
    return best([replace(chosen, kinds=share) for share in _OF_KINDS], predictions)
