"""Genes that slices share, and their counts: for encoders of one panel of genes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo.genes.controls import gene_mask, warn_of_left_out_controls
from stofm_geo.genes.counts import as_counts

_TOO_FEW, _FEW = 5, 50  # shared genes: an error and a warning, if most are not shared


def shared_genes(slices: Sequence[AnnData]) -> np.ndarray:
    """Return the names of the genes that all slices share, without control probes.

    Args:
        slices: Slices with gene names in ``var_names``.

    Returns:
        Names ``[G]`` str, in the order of the first slice.

    Raises:
        ValueError: There are no slices; or they share fewer than two genes, or fewer than 5 and
            fewer than half of those of the smallest.

    Warns:
        UserWarning: They share fewer than 50 genes, and fewer than half of those of the smallest;
            or control probes are left out.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import shared_genes
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> len(shared_genes([adata, adata[:, 10:]]))
        20
    """
    if not slices:
        raise ValueError("there are no slices")
    genes = slices[0].var_names
    known = [gene_mask(adata.var) for adata in slices]
    for adata, mask in zip(slices, known, strict=True):
        warn_of_left_out_controls(adata.var, mask)
        genes = genes[genes.isin(adata.var_names[mask])]
    smallest = min(int(mask.sum()) for mask in known)
    needed = max(2, min(_TOO_FEW, smallest // 2))
    fix = (
        "use names of one kind (symbols or Ensembl ids) and one species, or "
        "encoder='panel' (--encoder panel), which takes different panels and species"
    )
    found = f"the {len(slices)} slices share {len(genes)} gene names"
    if len(genes) < needed:
        raise ValueError(f"{found}; at least {needed} are needed; {fix}")
    if len(genes) < min(_FEW, smallest / 2):
        warnings.warn(
            f"{found}, of {smallest} or more of each; results from so few are rough; {fix}",
            stacklevel=4,  # whoever fits an encoder
        )
    return genes.to_numpy(dtype=str)


def counts_of_genes(adata: AnnData, genes: np.ndarray) -> sp.csr_matrix:
    """Return the counts of some genes.

    Args:
        adata: Cells with counts in ``X``.
        genes: Names in ``var_names``, ``[G]``.

    Returns:
        Counts ``[n, G]`` float32, with columns in the order of ``genes``. They may share memory
        with ``X``, and must not be modified.

    Raises:
        TypeError, ValueError: Counts are invalid (see :func:`as_counts`), or a gene is missing.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import counts_of_genes
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> counts_of_genes(adata, adata.var_names[[3, 1]]).shape
        (200, 2)
    """
    counts, genes = as_counts(adata, copy=False), np.asarray(genes)
    if len(genes) == adata.n_vars and (adata.var_names == genes).all():
        return counts
    columns = adata.var_names.get_indexer(genes)
    if (columns < 0).any():
        raise ValueError(f"var_names has no {str(genes[columns < 0][0])!r}")
    counts = counts[:, columns]
    counts.sort_indices()  # so that sums are the same for any order of the genes
    return counts
