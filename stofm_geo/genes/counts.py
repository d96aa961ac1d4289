"""Counts of any storage as one checked CSR matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._checks import examples


def as_counts(adata: AnnData) -> sp.csr_matrix:
    """The counts in ``adata.X`` as float32 CSR ``[n, genes]``, from any storage.

    Dense, CSR, CSC and backed matrices of any number type are read; explicit zeros are dropped,
    so that equal counts give equal arrays.

    Raises:
        TypeError: ``X`` is not numeric.
        ValueError: ``X`` is missing, holds NaN, infinite or negative values, or only zeros, or
            gene names occur twice.
    """
    if adata.X is None:
        raise ValueError("X is empty (None); put the counts there, or name features in obsm")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{len(twice)} gene names in var_names occur more than once ({examples(twice)}); "
            "sum or drop the doubles, or call adata.var_names_make_unique()"
        )
    counts = _csr(adata.X)
    values = counts.data
    if not np.isfinite(values).all():
        raise ValueError(
            f"X holds {int((~np.isfinite(values)).sum())} NaN or infinite values; "
            "raw counts are needed"
        )
    if len(values) and values.min() < 0:
        raise ValueError(
            f"X holds negative values (least: {values.min():g}): is it scaled or centred? "
            "raw counts are needed (perhaps in adata.raw or a layer)"
        )
    if not values.any():
        raise ValueError(f"all {adata.n_obs} x {adata.n_vars} counts in X are zero")
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _csr(matrix: Any) -> sp.csr_matrix:
    if hasattr(matrix, "to_memory"):  # anndata's backed sparse matrices
        matrix = matrix.to_memory()
    elif not sp.issparse(matrix):  # dense, in memory or an HDF5 data set
        matrix = np.asarray(matrix[...])
    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"X must hold numbers; found {matrix.dtype}")
    # A copy always: a cast alone would share its indices with the user's matrix.
    counts = sp.csr_matrix(matrix, dtype=np.float32, copy=True)
    counts.sum_duplicates()
    return counts
