"""Cell types in spots that hold several cells, from a reference whose cells are labelled."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_positions, check_target
from stofm_geo._keys import Keys
from stofm_geo._slices import label_slices
from stofm_geo._storable import storable_frame
from stofm_geo._validation import check_positive, error_context, preview
from stofm_geo.tasks._reference import (
    HERE,
    THERE,
    check_spatial_key,
    counts_of,
    row_order,
    shared_genes,
)
from stofm_geo.tasks.deconvolution.poisson_mixture import (
    informative,
    mixture,
    profiles,
    proportions,
)
from stofm_geo.tasks.deconvolution.pseudospots import (
    mixture_features,
    predict_proportions,
    sample_pseudospots,
)
from stofm_geo.tasks.labels import classes_of, codes_of, read_labels

_GENES = 1000  # those that tell types apart best
_MOST_CELLS = 500.0  # in a window


def deconvolve(
    adata: AnnData,
    reference: AnnData,
    label_key: str = "cell_type",
    *,
    key_added: str = Keys.PROPORTIONS,
    slice_key: str | None = None,
    layer: str | None = None,
    reference_layer: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    organism: str | None = None,
    cells_per_spot: float | None = None,
    seed: int = 0,
) -> None:
    """Estimate the share of each cell type in each spot, in place.

    Two estimates are averaged. The first models the counts of a spot as a Poisson mixture of cells,
    with several profiles per type and one factor per gene for differences between platforms;
    a cell with much RNA counts as one cell. The second is a small network trained on pseudospots
    from the reference tissue, which learns which types occur together. Without positions in the
    reference, only the first is used. Spots are independent of their neighbours: smoothing helps
    where counts are few, but blurs boundaries.

    Args:
        adata: Spots, raw counts in ``X``.
        reference: Labelled cells, raw counts in ``X``: a slice of single cells, or dissociated
            ones. Cells without a label are left out.
        label_key: Column of the reference's ``obs`` with cell types (default ``"cell_type"``).
        key_added: Key in ``obsm``, and in ``uns``, that is written.
        slice_key: Column of the reference's ``obs`` that tells its slices apart; ``None``: one.
        layer: Layer of ``adata`` with its raw counts; ``None``: they are in ``X``.
        reference_layer: Layer of ``reference`` with its raw counts; ``None``: they are in ``X``.
        spatial_key: Key in the reference's ``obsm`` of positions, if it has them.
        organism: ``"auto"``, ``"human"`` or ``"mouse"`` makes human Ensembl ids of both sides'
            genes first (:func:`stofm_geo.genes.harmonize`); ``None`` (default): names are compared
            as they are.
        cells_per_spot: Cells of a window, on average. ``None`` (default): the median counts of
            a spot over those of a reference's cell, which is right where both platforms count
            equally deep; give it where they do not (Visium: 3 to 10).
        seed: Random seed of profiles, pseudospots and network.

    Writes ``obsm[key_added]``, a DataFrame ``[n, types]`` float64 whose rows sum to 1, and
    ``uns[key_added]``: ``types``, the number of genes that were used, cells per window (0 without
    windows), and ``gene_factors``, by gene. Columns are the types; but a file cannot hold names
    with ``/``, so that ``L2/3`` becomes ``L2_3``. ``types`` has them in this order as they are.

    Warns:
        UserWarning: There are fewer than 50 shared genes. No cell of a type has counts of them;
            there is no share of it. Spots have no counts of the shared genes; they get the mean of
            the others. Or they have fewer than a cell of the reference, and ``cells_per_spot`` is
            not given.

    Raises:
        KeyError: The reference has no ``label_key`` or ``slice_key``, or no ``spatial_key`` other
            than ``"spatial"``.
        TypeError: One side is no AnnData.
        ValueError: Five shared genes or fewer, fewer than two labels, or unfit counts.
    """
    if cells_per_spot is not None:
        check_positive("cells_per_spot", cells_per_spot)
    check_positive("seed", seed, whole=True, or_zero=True)
    check_target(adata, key_added, spatial_key=spatial_key)
    labels = read_labels(reference, label_key, "the reference")
    classes_of([labels], label_key)
    spots, labelled, genes = shared_genes(adata, reference, organism, layer, reference_layer)
    check_spatial_key(spatial_key, reference)
    cells = counts_of(labelled, genes, THERE)
    labels = _with_counts(labels, np.diff(cells.indptr) > 0)
    names = classes_of([labels], label_key)
    code = codes_of(labels, names)
    rows = np.flatnonzero(code >= 0)
    rows = rows[row_order(cells[rows])]
    some = informative(cells[rows], code[rows], len(names), _GENES)
    genes, cells = genes[some], cells[rows][:, some]
    labelled, code = labelled[rows], code[rows]
    with error_context(THERE):
        pos = check_positions(labelled, spatial_key) if spatial_key in labelled.obsm else None
        slice_rows = label_slices(labelled, pos, spatial_key, slice_key).rows()
    counts = counts_of(spots, genes, HERE).toarray().astype(np.float64)
    full = counts.any(axis=1)
    if not full.any():
        raise ValueError(
            f"no spot has counts of the {len(genes)} genes shared with the reference; is it the "
            "same tissue and species?"
        )
    profile, kind = profiles(cells.toarray().astype(np.float64), code, len(names), seed)
    mixed, factors = mixture(counts[full], profile)
    share = proportions(mixed, kind, len(names))
    size = 0.0
    if pos is not None:
        depth = _depth(counts[full], cells)
        if depth < 1 and cells_per_spot is None:
            warnings.warn(
                f"a spot has {depth:.2f} times the counts of a cell of the reference, and is taken "
                "for one cell; give cells_per_spot if it holds more",
                stacklevel=2,
            )
        size = float(max(depth, 1.0) if cells_per_spot is None else cells_per_spot)
        cells, code = cells[np.concatenate(slice_rows)], code[np.concatenate(slice_rows)]
        where = sample_pseudospots([pos[part] for part in slice_rows], size, seed)
        seen = _thinned(where @ cells, min(depth / size, 1.0), seed)
        truth = where @ np.eye(len(names))[code]
        share += predict_proportions(
            mixture_features(mixture(seen, profile, np.ones(len(genes)))[0], seen),
            truth / truth.sum(axis=1, keepdims=True),
            mixture_features(mixed, counts[full] / factors),
            seed,
        )
        share /= share.sum(axis=1, keepdims=True)
    found = np.tile(share.mean(axis=0), (adata.n_obs, 1))
    found[full] = share
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} spots have no counts of shared genes "
            f"({preview(adata.obs_names[~full])}) and get the mean of the others",
            stacklevel=2,
        )
    adata.obsm[key_added] = storable_frame(found, adata.obs_names, names, f"obsm[{key_added!r}]")
    adata.uns[key_added] = {
        "types": np.array(names),
        "n_genes": len(genes),
        "cells_per_spot": size,
        "gene_factors": pd.DataFrame({"factor": factors}, index=genes),
    }


def _with_counts(labels: np.ndarray, full: np.ndarray) -> np.ndarray:
    """Return the labels of cells with counts, ``None`` for the others."""
    kept = np.where(full, labels, np.array(None, dtype=object))
    if lost := sorted({name for name in labels if name} - {name for name in kept if name}):
        warnings.warn(
            f"the reference: no cell of {len(lost)} types has counts of the shared genes "
            f"({preview(lost)}); they are left out",
            stacklevel=3,
        )
    return kept


def _depth(spots: np.ndarray, cells: sp.csr_matrix) -> float:
    """Return the ratio of the median counts of a spot to those of a reference cell."""
    of_cell = np.asarray(cells.sum(axis=1)).ravel()
    ratio = np.median(spots.sum(axis=1)) / max(np.median(of_cell[of_cell > 0]), 1)
    return float(min(ratio, _MOST_CELLS))


def _thinned(counts: sp.csr_matrix, share: float, seed: int) -> np.ndarray:
    """Downsample counts binomially: each is kept with this probability. Dense float64."""
    dense = counts.toarray().astype(np.float64)
    if share < 1:
        dense = np.random.default_rng(seed).binomial(np.rint(dense).astype(np.int64), share)
    return dense.astype(np.float64)
