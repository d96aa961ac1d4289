"""Conversion of counts of any storage to one checked CSR matrix."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import layer_names
from stofm_geo._linalg import BLOCK
from stofm_geo._sparse import check_sparse
from stofm_geo._validation import listed, preview
from stofm_geo.genes._scale import check_scale, raw_counts_hint


def as_counts(adata: AnnData, *, copy: bool = True) -> sp.csr_matrix:
    """Return the counts in ``adata.X`` as float32 CSR ``[n, genes]``, from any storage.

    Dense, CSR, CSC and backed matrices of any numeric dtype are supported. Duplicate entries are
    summed, explicit zeros dropped and columns sorted, so that equal counts give equal arrays.

    Counts need not be integers: expected and corrected ones are accepted. Logarithms are rejected;
    they are detected from a sample of the cells.

    Args:
        adata: Cells or spots.
        copy: Without a copy, the result may share memory with ``X``, and must not be modified.

    Warns:
        UserWarning: The counts look divided by each cell's total or volume.

    Raises:
        TypeError: ``X`` is not numeric.
        ValueError: ``X`` is missing, holds NaN, infinite or negative values, logarithms, or only
            zeros, or gene names occur twice.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import as_counts
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> counts = as_counts(adata)
        >>> counts.shape, str(counts.dtype), bool(counts.sum() == adata.X.sum())
        ((200, 30), 'float32', True)
    """
    check_unique(adata.var_names)
    return counts_with_duplicate_names(adata, copy=copy)


def counts_with_duplicate_names(adata: AnnData, *, copy: bool = True) -> sp.csr_matrix:
    """Return :func:`as_counts` where gene names may occur twice."""
    counts = checked_counts(adata, copy)
    if not counts.nnz:
        raise _all_zero(adata)
    return counts


def counts_from_layer(adata: AnnData, layer: str | None) -> AnnData:
    """Return cells whose ``X`` is a layer of ``adata``, without a copy; ``adata`` for ``None``.

    Raises:
        KeyError: The layer does not exist.
    """
    if layer is None:
        return adata
    if layer not in adata.layers:
        raise KeyError(
            f"layers has no {layer!r} (counts); it has {listed(layer_names(adata))}; name another "
            "layer, or omit it for counts in X"
        )
    parts = {"obsm": dict(adata.obsm), "uns": dict(adata.uns)}
    return AnnData(adata.layers[layer], adata.obs, adata.var, **parts)


def count_blocks(adata: AnnData, rows: int = BLOCK) -> Iterator[sp.csr_matrix]:
    """Yield the matrix of :func:`as_counts` in blocks of rows.

    A file opened with ``backed="r"`` is read in blocks, too, and never as a whole; except a file
    that is stored by columns (CSC), or a view, which AnnData reads as a whole.

    Args:
        adata: Cells or spots.
        rows: Maximum number of rows of a block.

    Raises:
        TypeError, ValueError: As :func:`as_counts`; for a backed file, when a block is read, and
            for only zeros after the last block.
    """
    whole = not adata.isbacked or adata.is_view
    if whole or adata.file["X"].attrs.get("encoding-type") == "csc_matrix":
        counts = as_counts(adata, copy=False)
        yield from (counts[start : start + rows] for start in range(0, adata.n_obs, rows))
        return
    check_unique(adata.var_names)
    nonzero = 0
    for start in range(0, adata.n_obs, rows):
        block = checked_counts(adata[start : start + rows], copy=False)
        nonzero += block.nnz
        yield block
    if not nonzero:
        raise _all_zero(adata)


def check_unique(names: pd.Index) -> None:
    """Check that gene names are unique.

    Raises:
        ValueError: Some are not.
    """
    if names.is_unique:
        return
    duplicates = names[names.duplicated()].unique()
    raise ValueError(
        f"{len(duplicates)} gene names in var_names occur more than once ({preview(duplicates)}); "
        "sum or drop the duplicates (stofm_geo.genes.harmonize sums them), "
        "or call adata.var_names_make_unique()"
    )


def warn_if_row_numbers(names: Iterable[object]) -> None:
    """Warn if genes are named 0, 1, 2, ..., since such names differ in meaning between files.

    Warns:
        UserWarning: The names are row numbers.
    """
    texts = [str(name) for name in names]
    if texts and all(text.isdecimal() for text in texts) and max(map(int, texts)) < 2 * len(texts):
        warnings.warn(
            f"genes are named by numbers ({preview(texts)}), probably their row in a file: "
            "genes of another file cannot be matched; put their names into var_names",
            stacklevel=3,
        )


def checked_counts(adata: AnnData, copy: bool) -> sp.csr_matrix:
    """Return :func:`counts_with_duplicate_names` where all cells may be empty."""
    matrix = adata.X
    if matrix is None:
        raise ValueError(missing_counts_message(layer_names(adata)))
    counts = _csr(matrix, copy)
    values = counts.data
    if not np.isfinite(values).all():
        raise ValueError(
            f"X holds {int((~np.isfinite(values)).sum())} NaN or infinite values; "
            "raw counts are needed"
        )
    if len(values) and values.min() < 0:
        raise ValueError(
            f"X holds negative values (least: {values.min():g}): is it scaled or centred? "
            f"{raw_counts_hint(adata)}"
        )
    if len(values):
        check_scale(counts, adata)
    return counts


def missing_counts_message(layers: Iterable[str]) -> str:
    """Return the error message for an AnnData without ``X``."""
    names = sorted(layers)
    if not names:
        return "X is empty (None); put the counts there, or name features in obsm"
    best = next((name for name in names if name in ("counts", "raw", "raw_counts")), names[0])
    return (
        f"X is empty (None), but there are layers {names}; if one holds the counts, give "
        f"layer={best!r} (--layer {best})"
    )


def _all_zero(adata: AnnData) -> ValueError:
    return ValueError(f"all {adata.n_obs} x {adata.n_vars} counts in X are zero")


def _csr(matrix: Any, copy: bool) -> sp.csr_matrix:
    if hasattr(matrix, "to_memory"):  # anndata's backed sparse matrices
        matrix = matrix.to_memory()
    elif hasattr(matrix, "compute"):  # dask's arrays, whose chunks may be sparse
        matrix = matrix.compute()
    if not sp.issparse(matrix):  # dense, in memory or an HDF5 data set
        matrix = np.asarray(matrix[...])
    if matrix.dtype.kind not in "biuf":
        fix = "; if they are written as text: adata.X = adata.X.astype(float)"
        found = matrix.dtype
        raise TypeError(f"X must hold numbers; found {found}{fix if found.kind in 'OSUT' else ''}")
    check_sparse(matrix, "X")
    return tidy(sp.csr_matrix(matrix, dtype=np.float32, copy=copy))


def tidy(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Return a matrix without duplicates and explicit zeros, sorted; a copy only if needed."""
    if matrix.has_canonical_format and matrix.data.all():
        return matrix
    matrix = matrix.copy()  # in place would change the matrix of the user
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix
