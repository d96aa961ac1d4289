"""Medians of genes over more cells than fit in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from anndata import AnnData

from stofm_geo._validation import error_context, preview
from stofm_geo.genes.counts import count_blocks
from stofm_geo.genes.identifiers import ensembl_ids
from stofm_geo.ops.compiled import compiled_exactly

# Ratio of the bounds of a bin; its geometric middle is within the square root of all its values.
_RATIO = 1.019
_LEAST, _MOST = 1e-4, 1e4  # per 10 000 counts: from one in a hundred million to all
_BINS = int(np.ceil(np.log(_MOST / _LEAST) / np.log(_RATIO))) + 1


def corpus_medians(slices: Iterable[AnnData]) -> dict[str, float]:
    r"""Compute the median of each gene's values above zero, per 10 000 counts of a cell.

    A value is :math:`10^4 \, c_g / \sum_{g'} c_{g'}`, the sum over all genes of the file. Values
    are counted in bins whose bounds have a ratio of 1.019, from 0.0001 on (smaller values are
    clamped). Each of the two middle values is replaced by the geometric middle of its bin, so the
    result is within :math:`\sqrt{1.019} - 1 < 1\,\%` of the exact median. Memory is 4 KB per gene,
    for any number of cells.

    Args:
        slices: Slices, in memory or backed; each is read in blocks of rows.

    Returns:
        Medians by Ensembl id, sorted; genes without counts are left out.

    Raises:
        KeyError, TypeError, ValueError: Invalid counts or gene names, or no counts at all.
    """
    row: dict[str, int] = {}
    counted = np.zeros((0, _BINS), dtype=np.uint32)
    for i, adata in enumerate(slices):
        with error_context(f"slice {i}"):
            genes = ensembl_ids(adata)
            for gene in genes:
                row.setdefault(gene, len(row))
            if new := len(row) - len(counted):  # avoids copying all bins
                counted = np.concatenate([counted, np.zeros((new, _BINS), dtype=np.uint32)])
            rows = np.array([row[gene] for gene in genes], dtype=np.int64)
            for counts in count_blocks(adata):
                _count(counts.indptr, counts.indices, counts.data, rows, counted)
    medians = _medians(counted)
    found = {gene: float(medians[i]) for gene, i in sorted(row.items()) if medians[i] > 0}
    if not found:
        raise ValueError(
            f"no counts: the corpus has no slices, or none of its genes ({preview(row)}) is found"
        )
    return found


@compiled_exactly
def _count(indptr, indices, data, rows, counted):  # type: ignore[no-untyped-def]
    per_bin = 1 / np.log(_RATIO)
    for i in range(len(indptr) - 1):
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            total += np.float64(data[p])
        for p in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[p]) / total * 10000.0
            bin_index = int(np.log(max(value / _LEAST, 1.0)) * per_bin)
            counted[rows[indices[p]], min(bin_index, _BINS - 1)] += np.uint32(1)


def _medians(counted: np.ndarray) -> np.ndarray:
    """Return the median of each row of bins; 0 for an empty row."""
    middle = _LEAST * _RATIO ** (np.arange(_BINS) + 0.5)
    medians = np.zeros(len(counted))
    for i, bins in enumerate(counted):
        upto = np.cumsum(bins, dtype=np.int64)
        if n := int(upto[-1]):
            pair = np.searchsorted(upto, [(n - 1) // 2, n // 2], side="right")
            medians[i] = middle[pair].mean()
    return medians
