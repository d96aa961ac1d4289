"""Deconvolution: cell-type proportions of spots from a labelled reference."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_positions, check_target
from stofm_geo._keys import Keys
from stofm_geo._linalg import row_sums
from stofm_geo._slices import label_slices
from stofm_geo._storable import storable_frame
from stofm_geo._validation import check_positive, error_context, preview
from stofm_geo.tasks._reference import (
    HERE,
    THERE,
    check_spatial_key,
    counts_of,
    row_order,
    with_shared_genes,
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

_MAX_GENES = 1000  # most variable between types
_MAX_CELLS = 500.0  # per pseudospot


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
    """Estimate the proportion of each cell type in each spot, in place.

    Two estimates are averaged. The first models the counts of a spot as a Poisson mixture of cells,
    with several profiles per type and one factor per gene for differences between platforms; cells
    are counted, whatever their amount of RNA. The second is a small network trained on pseudospots
    from the reference tissue, which learns which types occur together. Without positions in the
    reference, only the first is used. Spots do not depend on their neighbours: smoothing helps if
    counts are few, but blurs boundaries.

    Written are ``obsm[key_added]``, a DataFrame ``[n, types]`` float64 whose rows sum to 1, and
    ``uns[key_added]`` with ``types``; ``n_genes``, the number of genes used; ``cells_per_spot``, 0
    without pseudospots; and ``gene_factors``, a DataFrame. The columns of the proportions are the
    types, but with ``_`` for ``/``, which a file cannot hold in a name: ``L2/3`` becomes ``L2_3``.
    ``uns[key_added]["types"]`` has the original names in the same order.

    Args:
        adata: Spots with raw counts in ``X``.
        reference: Labelled cells with raw counts in ``X``, from a slice or dissociated. Cells
            without a label are ignored.
        label_key: Column of the reference's ``obs`` with cell types (default ``"cell_type"``).
        key_added: Key in ``obsm`` and ``uns`` that is written.
        slice_key: Column of the reference's ``obs`` with the slice of each cell; ``None``: all
            cells are one slice.
        layer: Layer of ``adata`` with its raw counts; ``None``: they are in ``X``.
        reference_layer: Layer of ``reference`` with its raw counts; ``None``: they are in ``X``.
        spatial_key: Key in the reference's ``obsm`` of the positions, if it has any.
        organism: ``"auto"``, ``"human"`` or ``"mouse"`` converts the genes of both AnnData to human
            Ensembl ids first (:func:`stofm_geo.genes.harmonize`); ``None`` (default) compares the
            names as they are.
        cells_per_spot: Mean number of cells per pseudospot. ``None`` (default) takes the ratio of
            the median counts of a spot and of a reference cell, which is right if both platforms
            have the same sensitivity; otherwise set it (Visium: 3 to 10).
        seed: Random seed of profiles, pseudospots and network.

    Warns:
        UserWarning: There are fewer than 50 shared genes, or they do not vary together in the
            reference as they do in ``adata``, which may be another tissue; a type has no cell
            with counts of them, and is left out; spots have no counts of them, and get the mean of
            the other spots; or spots have fewer counts than reference cells, and
            ``cells_per_spot`` is not given.

    Raises:
        KeyError: The reference lacks ``label_key``, ``slice_key`` or a non-default ``spatial_key``.
        TypeError: ``adata`` or ``reference`` is not an AnnData.
        ValueError: There are five shared genes or fewer, or fewer than two labels, or counts are
            invalid.

    Examples:
        >>> from stofm_geo import datasets, tl
        >>> adata = datasets.toy_tissue(200, 60, seed=0)
        >>> spots, reference = adata[:50].copy(), adata[50:].copy()
        >>> tl.deconvolve(spots, reference, "region")
        >>> spots.obsm["stofm_proportions"].shape
        (50, 6)
        >>> spots.obsm["stofm_proportions"].sum(axis=1).round(6).unique().tolist()
        [1.0]
    """
    if cells_per_spot is not None:
        check_positive("cells_per_spot", cells_per_spot)
    check_positive("seed", seed, whole=True, or_zero=True)
    check_target(adata, key_added, spatial_key=spatial_key)
    labels = read_labels(reference, label_key, "the reference")
    classes_of([labels], label_key)
    spots, labelled, genes = with_shared_genes(adata, reference, organism, layer, reference_layer)
    check_spatial_key(spatial_key, reference)
    cells = counts_of(labelled, genes, THERE)
    labels = _with_counts(labels, np.diff(cells.indptr) > 0)
    names = classes_of([labels], label_key)
    code = codes_of(labels, names)
    rows = np.flatnonzero(code >= 0)
    rows = rows[row_order(cells[rows])]
    columns = informative(cells[rows], code[rows], len(names), _MAX_GENES)
    genes, cells = genes[columns], cells[rows][:, columns]
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
    profile, profile_type = profiles(cells.toarray().astype(np.float64), code, len(names), seed)
    cells_of_profile, factors = mixture(counts[full], profile)
    proportion = proportions(cells_of_profile, profile_type, len(names))
    window_size = 0.0
    if pos is not None:
        depth = _depth(counts[full], cells)
        if depth < 1 and cells_per_spot is None:
            warnings.warn(
                f"a spot has {depth:.2f} times the counts of a reference cell, and is treated "
                "as one cell; set cells_per_spot (--cells-per-spot) if spots hold more",
                stacklevel=2,
            )
        window_size = float(max(depth, 1.0) if cells_per_spot is None else cells_per_spot)
        cells, code = cells[np.concatenate(slice_rows)], code[np.concatenate(slice_rows)]
        windows = sample_pseudospots(
            [pos[rows_of_slice] for rows_of_slice in slice_rows], window_size, seed
        )
        pseudospot_counts = _thinned(windows @ cells, min(depth / window_size, 1.0), seed)
        truth = windows @ np.eye(len(names))[code]
        proportion += predict_proportions(
            mixture_features(
                mixture(pseudospot_counts, profile, np.ones(len(genes)))[0], pseudospot_counts
            ),
            truth / truth.sum(axis=1, keepdims=True),
            mixture_features(cells_of_profile, counts[full] / factors),
            seed,
        )
        proportion /= proportion.sum(axis=1, keepdims=True)
    result = np.tile(proportion.mean(axis=0), (adata.n_obs, 1))
    result[full] = proportion
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} spots have no counts of shared genes "
            f"({preview(adata.obs_names[~full])}) and get the mean of the other spots",
            stacklevel=2,
        )
    adata.obsm[key_added] = storable_frame(result, adata.obs_names, names, f"obsm[{key_added!r}]")
    adata.uns[key_added] = {
        "types": np.array(names),
        "n_genes": len(genes),
        "cells_per_spot": window_size,
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
    counts_per_cell = row_sums(cells)
    ratio = np.median(spots.sum(axis=1)) / max(np.median(counts_per_cell[counts_per_cell > 0]), 1)
    return float(min(ratio, _MAX_CELLS))


def _thinned(counts: sp.csr_matrix, probability: float, seed: int) -> np.ndarray:
    """Return counts downsampled binomially, each kept with this probability; dense float64."""
    dense = counts.toarray().astype(np.float64)
    if probability < 1:
        dense = np.random.default_rng(seed).binomial(np.rint(dense).astype(np.int64), probability)
    return dense.astype(np.float64)
