"""Shared genes of a slice and a reference, in one order."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata
from stofm_geo._keys import Keys
from stofm_geo._validation import error_context, listed, preview
from stofm_geo.genes.controls import gene_mask, warn_of_left_out_controls
from stofm_geo.genes.counts import counts_from_layer, warn_if_row_numbers
from stofm_geo.genes.harmonize import harmonize
from stofm_geo.genes.shared import counts_of_genes

HERE, THERE = "adata", "the reference"  # names in messages
TOO_FEW = 5  # shared genes: an error
_FEW = 50  # shared genes: below, a warning
_MANTEL_GENES, _MANTEL_CELLS = 200, 2000
_PERMUTATIONS, _LEVEL = 199, 0.05


def with_shared_genes(
    adata: AnnData,
    reference: AnnData,
    organism: str | None,
    layer: str | None,
    reference_layer: str | None,
) -> tuple[AnnData, AnnData, np.ndarray]:
    """Return both AnnData, harmonized if ``organism`` is given, and their shared genes, sorted.

    Warns:
        UserWarning: They share fewer than 50 genes, or these do not vary together alike.

    Raises:
        TypeError: One is not an AnnData.
        ValueError: One has no cells, they share five genes or fewer, or ``harmonize`` raises.
    """
    adata = _side(adata, HERE, organism, layer)
    reference = _side(reference, THERE, organism, reference_layer)
    genes = np.sort(adata.var_names.intersection(reference.var_names).to_numpy(dtype=str))
    warn_if_row_numbers(genes)
    if len(genes) <= TOO_FEW:
        raise ValueError(
            f"the reference shares {len(genes)} gene names with the slice, and more than {TOO_FEW} "
            f"are needed: var_names are {preview(reference.var_names)} there, and "
            f"{preview(adata.var_names)} here; "
            + (
                "is it the same tissue, and a panel that overlaps?"
                if organism is not None
                else 'for other names or another species, give organism="auto" (human Ensembl ids)'
            )
        )
    if len(genes) < _FEW:
        warnings.warn(
            f"the reference shares {len(genes)} gene names with the slice, of {adata.n_vars} here "
            f"and {reference.n_vars} there; results from so few genes are rough",
            stacklevel=3,
        )
    warn_if_unlike(adata, reference, genes)
    return adata, reference, genes


def _side(adata: AnnData, name: str, organism: str | None, layer: str | None) -> AnnData:
    """Return ``adata`` harmonized, without features that are not genes, such as control probes."""
    check_anndata(adata, name)
    with error_context(name):
        if adata.n_obs == 0:
            raise ValueError("there are no cells")
        adata = counts_from_layer(adata, layer)
        if organism is not None:
            adata = harmonize(adata, organism)
        genes = gene_mask(adata.var)
        warn_of_left_out_controls(adata.var, genes)
    return adata if genes.all() else adata[:, genes]


def check_spatial_key(key: str, *adatas: AnnData) -> None:
    """Check that a non-default key of positions is in at least one ``obsm``.

    Raises:
        KeyError: The key is not the default, and in no ``obsm``.
    """
    if key != Keys.SPATIAL and not any(key in adata.obsm for adata in adatas):
        found = listed({name for adata in adatas for name in adata.obsm})
        raise KeyError(
            f"obsm has no {key!r} (positions); it has {found}; name another "
            "spatial_key, or leave it out"
        )


def counts_of(adata: AnnData, genes: np.ndarray, name: str) -> sp.csr_matrix:
    """Return checked counts of these genes, ``[n, len(genes)]`` float32; errors say ``name``."""
    with error_context(name):
        return counts_of_genes(adata, genes)


def warn_if_unlike(here: AnnData, there: AnnData, genes: np.ndarray) -> None:
    """Warn where genes do not vary together in the reference as they do in ``adata``.

    The test is Mantel's: the correlation of both sides' correlations between genes must exceed
    that of 19 in 20 permutations of the genes. It takes at most 2 000 cells and the 200 genes with
    the most counts.

    Warns:
        UserWarning: It does not: the tissue, the species or the names may be others.
    """
    sides = [counts_of(here, genes, HERE), counts_of(there, genes, THERE)]
    total = np.minimum(*(np.asarray(counts.mean(axis=0)).ravel() for counts in sides))
    most = np.argsort(-total, kind="stable")[:_MANTEL_GENES]
    first, second = (_gene_correlations(counts[:, most]) for counts in sides)
    if not (first.any() and second.any()):  # of a single cell, say: nothing to compare
        return
    pairs = np.triu_indices(len(most), 1)
    rng = np.random.default_rng(0)
    orders = [np.arange(len(most)), *(rng.permutation(len(most)) for _ in range(_PERMUTATIONS))]
    agreement = [
        np.corrcoef(first[pairs], second[np.ix_(order, order)][pairs])[0, 1] for order in orders
    ]
    if not np.mean(np.array(agreement[1:]) >= agreement[0]) < _LEVEL:
        warnings.warn(
            f"the {len(genes)} shared genes do not vary together in the reference as they do in "
            f"the slice (correlation of their correlations {agreement[0]:.2f}, no more than by "
            "chance): results may mean nothing; is it the same tissue, species and kind of names?",
            stacklevel=4,
        )


def _gene_correlations(counts: sp.csr_matrix) -> np.ndarray:
    """Return correlations between genes, of log fractions of evenly spaced cells; 0 without any."""
    rows = counts[:: -(-counts.shape[0] // _MANTEL_CELLS)].toarray().astype(np.float64)
    rows = rows[rows.any(axis=1)]
    rows = np.log1p(rows / rows.sum(axis=1, keepdims=True) * 1e3)
    rows -= rows.mean(axis=0)
    norm = np.sqrt((rows**2).sum(axis=0))
    rows /= np.where(norm > 1e-9, norm, np.inf)  # a constant gene varies with none
    return rows.T @ rows


def row_order(counts: sp.csr_matrix) -> np.ndarray:
    """Return an order of the cells ``[n]`` that does not depend on their row order."""
    weights = np.random.default_rng(0).uniform(1, 2, counts.shape[1])
    return np.argsort(counts.astype(np.float64) @ weights, kind="stable")
