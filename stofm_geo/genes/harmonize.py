"""Conversion of genes of any names to human Ensembl ids."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata
from stofm_geo._validation import preview
from stofm_geo.genes.counts import counts_with_duplicate_names
from stofm_geo.genes.matching import GeneMatch, Table, match_counts

REPORT = "stofm_genes"  # in uns
_FEW, _TOO_FEW = 0.6, 0.2  # fractions of genes
# Half of a transcriptome may be non-coding, without orthologs, so counts are checked, too.
_MOST_COUNTS, _FEW_COUNTS = 0.9, 0.6
_EXAMPLES = 20  # unmatched names in the report


def harmonize(adata: AnnData, organism: str = "auto", table: Table | None = None) -> AnnData:
    """Return an AnnData whose genes are human Ensembl ids, as :func:`match_genes` finds them.

    Counts of genes with the same id are summed; genes without a human id are left out. Harmonizing
    twice changes nothing more.

    Args:
        adata: Raw counts in ``X``, of any storage, also backed; it is not changed.
        organism: See :func:`match_genes`. (default: ``"auto"``)
        table: See :func:`match_genes`. (default: the installed ones)

    Returns:
        A new AnnData. ``X``: counts, float32 CSR; ``var_names``: human Ensembl ids, sorted and
        unique; ``var["names"]``: original names, joined by ``","``; ``uns["stofm_genes"]``: a
        report of the matching. ``obs`` is copied; ``obsm``, ``obsp`` and ``uns`` are shared with
        ``adata``, not copied. ``layers``, ``raw``, ``varm`` and ``varp`` belong to the old genes
        and are dropped.

    Warns:
        UserWarning: Matched genes are under 60 % of the genes and have under 90 % of the counts,
            or have under 60 % of the counts; or cells lose all their counts.

    Raises:
        ImportError: There are symbols or mouse genes, but no tables.
        TypeError: ``adata`` or ``table`` has the wrong type, or ``X`` is not numeric.
        ValueError: Matched genes are under 20 % of the genes and have under 60 % of the counts; or
            :func:`match_genes` raises.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import GeneTable, harmonize
        >>> adata = datasets.toy_tissue(200, 2, seed=0)
        >>> adata.var_names = ["Gfap", "Gfap-1"]  # of one gene: their counts are summed
        >>> mouse, human = "ENSMUSG00000020932", "ENSG00000131095"
        >>> table = GeneTable(mouse={"Gfap": mouse}, orthologs={mouse: human})
        >>> harmonize(adata, "mouse", table).var_names.tolist()
        ['ENSG00000131095']
    """
    check_anndata(adata, "adata")
    counts = counts_with_duplicate_names(adata, copy=False)
    ids, names, sums, report = human_genes(adata, counts, organism, table)
    human = sp.csr_matrix(counts @ sums)
    human.sort_indices()
    emptied = (np.diff(human.indptr) == 0) & (np.diff(counts.indptr) > 0)
    if emptied.any():
        warnings.warn(
            f"{int(emptied.sum())} of {adata.n_obs} cells have counts of unmatched genes only, and "
            f"are now empty ({preview(adata.obs_names[emptied])})",
            stacklevel=2,
        )
    obsm, obsp = adata.obsm, adata.obsp
    if adata.is_view:  # writing to its arrays would copy it
        obsm, obsp = obsm.copy(), obsp.copy()
    return AnnData(
        X=human,
        obs=adata.obs.copy(),
        var=pd.DataFrame({"names": names}, index=ids),
        obsm=dict(obsm),
        obsp=dict(obsp),
        uns={**adata.uns, REPORT: report},
    )


def human_genes(
    adata: AnnData, counts: sp.csr_matrix, organism: str, table: Table | None = None
) -> tuple[np.ndarray, np.ndarray, sp.csr_matrix, dict[str, Any]]:
    """Match genes as :func:`harmonize` does; only the sums of the counts matter.

    Args:
        adata: AnnData with gene names in ``var_names`` and ``var``.
        counts: Counts ``[n, genes]``, or one row with their sums.
        organism: See :func:`match_genes`.
        table: See :func:`match_genes`.

    Returns:
        Human ids ``[H]``, sorted; original names ``[H]``; a matrix ``[genes, H]`` of ones that sums
        counts of genes with the same human id; and a report of the matching.

    Warns and raises as :func:`harmonize`.
    """
    match = match_counts(adata, counts, organism, table)
    _check_shares(match)
    matched = np.flatnonzero(match.ids != "")
    ids, column = np.unique(match.ids[matched].astype(str), return_inverse=True)
    sums = sp.csr_matrix(
        (np.ones(len(matched), np.float32), (matched, column)), shape=(adata.n_vars, len(ids))
    )
    names = pd.Series(match.names[matched].astype(str)).groupby(column).agg(",".join)
    return ids, names.to_numpy(dtype=object), sums, _report(match, len(ids))


def _check_shares(match: GeneMatch) -> None:
    genes, counts = match.share_of_genes, match.share_of_counts
    if genes < _TOO_FEW and counts < _FEW_COUNTS:
        raise ValueError(
            f"too few genes are known: {match}; are these gene names, and is the organism right? "
            "give organism=..., or a table=... that knows them"
        )
    if counts < _FEW_COUNTS or (genes < _FEW and counts < _MOST_COUNTS):
        warnings.warn(f"many genes are left out: {match}", stacklevel=3)


def _report(match: GeneMatch, n_ids: int) -> dict[str, str | int | float | list[str]]:
    """Return the report of the matching, in types that AnnData can write."""
    return {
        "organism": match.organism,
        "n_genes": len(match.ids),
        "n_matched": int((match.ids != "").sum()),
        "n_human_genes": n_ids,
        "share_of_genes": match.share_of_genes,
        "share_of_counts": match.share_of_counts,
        "unmatched": match.unmatched[:_EXAMPLES],
    }
