"""Checks that counts are counts, and not logarithms or fractions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import layer_names

# Limits were chosen on 14 slices of nine technologies and transformations of their counts.
_ROWS = 256  # minimum size of the sample of rows, evenly spread, since files may be sorted
# Maximum of logarithms: even to base 2, 30 is more counts than a cell has.
_MOST_LOG = 30
_MOST_TAILLESS, _TAIL = 15, 5
_MANY_ONES = 1000  # values that are unlikely all 1 by chance
_ROOTS = 0.1  # minimum fraction of roots of counts that are not integers: of 2, 3, 5, ...
_EVEN = 0.01  # coefficient of variation of totals that were normalised


def check_scale(counts: sp.csr_matrix, adata: AnnData) -> None:
    """Reject logarithms, roots and scaled values; warn of divided counts and of binary values.

    Integers pass without further checks. Other fractions pass, too: expected counts (salmon, RSEM)
    and corrected ones (SoupX) are counts.

    Args:
        counts: ``[n, genes]``, without negative values and explicit zeros.
        adata: AnnData of the counts, which may hold raw counts elsewhere.

    Warns:
        UserWarning: Counts look divided by the total or volume of each cell, or all are 1.

    Raises:
        ValueError: Values look like logarithms, square roots, or are scaled to at most 1.
    """
    rows = _sample(counts)
    values = rows.data.astype(np.float64)
    fractions = values != np.round(values)
    largest = float(counts.data.max())
    if not fractions.any():
        if largest == 1 and counts.nnz >= _MANY_ONES:
            warnings.warn(
                f"all {counts.nnz} values of X are 1, as if they were presence only, and are used "
                f"as they are; {raw_counts_hint(adata)}",
                stacklevel=2,
            )
        return
    found = f"not whole numbers, the largest {largest:.3g}"
    # Checked before logarithms, since log(1 + x) is close to x for small fractions.
    if fractions.mean() > 0.5 and _divided(rows, values):
        warnings.warn(
            f"X looks divided by each cell's total or volume ({found}), and is used as it is; "
            f"{raw_counts_hint(adata)}",
            stacklevel=2,
        )
    elif largest <= 1:
        raise ValueError(f"X looks scaled to at most 1 ({found}); {raw_counts_hint(adata)}")
    elif fractions.mean() > _ROOTS and _whole_numbers(values**2).all():
        raise ValueError(f"X looks like square roots of counts ({found}); {raw_counts_hint(adata)}")
    elif largest < _MOST_LOG and (
        "log1p" in adata.uns
        or any(_divided(rows, base**values - 1) for base in (np.e, 2, 10))
        # Counts, even corrected ones, have a long tail; logarithms have none.
        or (
            largest < _MOST_TAILLESS
            and fractions.mean() > 0.9
            and values.max() < _TAIL * np.median(values)
        )
    ):
        raise ValueError(f"X looks log-transformed ({found}); {raw_counts_hint(adata)}")


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    return np.abs(values - np.round(values)) < 1e-5 * values.clip(1)


def raw_counts_hint(adata: AnnData) -> str:
    """Return where ``adata`` holds raw counts, or that it has none, for a message."""
    for name in layer_names(adata):
        if _whole(adata.layers[name]):
            return f"layers[{name!r}] holds whole numbers: layer={name!r} (--layer {name})"
    if adata.raw is not None and _whole(adata.raw.X):
        return "adata.raw holds whole numbers: adata = adata.raw.to_adata()"
    return "raw counts are needed, and neither a layer nor adata.raw holds whole numbers"


def _whole(matrix: Any) -> bool:
    if getattr(matrix, "ndim", 0) != 2 or matrix.dtype.kind not in "biuf":
        return False
    values = _sample(matrix)
    values = values.data if sp.issparse(values) else np.asarray(values)
    return bool((values > 1).any() and (values >= 0).all() and (values == np.round(values)).all())


def _sample(matrix: Any) -> Any:
    rows = matrix[:: max(matrix.shape[0] // _ROWS, 1)]
    return rows.compute() if hasattr(rows, "compute") else rows  # dask's


def _divided(rows: sp.csr_matrix, values: np.ndarray) -> bool:
    """Return whether ``values`` (of the entries of ``rows``) are integers times a number per cell.

    Either the totals are equal, or, where genes were left out since, most values are multiples of
    the smallest of the cell, which corresponds to one count.
    """
    size = np.diff(rows.indptr)
    starts = rows.indptr[:-1][size > 0]
    totals = np.add.reduceat(values, starts)
    if len(totals) > 2 and totals.std() < _EVEN * totals.mean():
        return True
    ratio = values / np.repeat(np.minimum.reduceat(values, starts), size[size > 0])
    ratio = ratio[(ratio > 1.5) & (ratio < 100)]  # larger ratios are all close to integers
    near = np.abs(ratio - np.round(ratio)) < 1e-3 * ratio.clip(1, 20)
    return len(ratio) >= 20 and bool(near.mean() > 0.5)
