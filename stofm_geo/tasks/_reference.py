"""A reference beside the slice that is to learn from it: shared genes, in one order, and labels."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._checks import examples
from stofm_geo.genes.counts import as_counts
from stofm_geo.genes.harmonize import harmonize

_FEW = 5  # shared genes with which nothing can be told


def shared_genes(
    adata: AnnData, reference: AnnData, organism: str | None
) -> tuple[AnnData, AnnData, np.ndarray]:
    """Both, harmonized where ``organism`` is given, and the genes they share, sorted.

    Raises:
        ValueError: They share five genes or fewer; or what ``harmonize`` raises.
    """
    if organism is not None:
        adata, reference = harmonize(adata, organism), harmonize(reference, organism)
    genes = np.sort(adata.var_names.intersection(reference.var_names).to_numpy(dtype=str))
    if len(genes) <= _FEW:
        raise ValueError(
            f"the reference shares {len(genes)} gene names with the slice, and more than {_FEW} "
            f"are needed: var_names are {examples(reference.var_names)} there, and "
            f"{examples(adata.var_names)} here; "
            + (
                "is it the same tissue, and a panel that overlaps?"
                if organism is not None
                else 'for other names or another species, give organism="auto" (human Ensembl ids)'
            )
        )
    return adata, reference, genes


def counts_of(adata: AnnData, genes: np.ndarray) -> sp.csr_matrix:
    """Checked counts of these genes, ``[n, len(genes)]`` float32."""
    return sp.csr_matrix(as_counts(adata, copy=False)[:, adata.var_names.get_indexer(genes)])


def labels_of(reference: AnnData, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Names of the types ``[K]``, sorted, and each cell's ``[n]``; -1 without a label.

    Raises:
        KeyError: ``obs`` has no such column.
        ValueError: No cell has a label, or all have the same.
    """
    if label_key not in reference.obs:
        raise KeyError(
            f"the reference's obs has no {label_key!r}; it has {sorted(reference.obs)}; name the "
            "column of cell types with label_key"
        )
    column = reference.obs[label_key]
    known = column.notna().to_numpy()
    names, code = np.unique(column[known].astype(str), return_inverse=True)
    if len(names) < 2:
        found = f"only {names[0]!r}" if len(names) else f"{len(known)} missing values"
        raise ValueError(
            f"the reference's obs[{label_key!r}] has {found}; two cell types or more are needed"
        )
    codes = np.full(len(known), -1)
    codes[known] = code
    return names, codes


def row_order(counts: sp.csr_matrix) -> np.ndarray:
    """An order of cells ``[n]`` that depends on their counts, not on the order they came in."""
    weights = np.random.default_rng(0).uniform(1, 2, counts.shape[1])
    return np.argsort(counts.astype(np.float64) @ weights, kind="stable")
