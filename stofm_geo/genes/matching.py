"""Matching of genes to human Ensembl ids."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._validation import listed, preview
from stofm_geo.genes.controls import gene_mask
from stofm_geo.genes.counts import counts_with_duplicate_names
from stofm_geo.genes.gene_table import ORGANISMS, GeneTable
from stofm_geo.genes.identifiers import GeneNames, gene_names, with_dashes, without_copy_number

Table = GeneTable | str | Path | Sequence[str | Path]
_MIXED = 0.05  # fraction of genes of a second species that is an error
_ENOUGH = 0.6  # fraction of human Ensembl ids from which on tables are optional
_EXAMPLES = 5


@dataclass(frozen=True)
class GeneMatch:
    """Human Ensembl id of each gene.

    Attributes:
        organism: ``"human"`` or ``"mouse"``.
        names: ``var_names``, ``[G]``.
        ids: Human Ensembl ids, ``""`` where none was found, ``[G]``.
        share_of_genes: Fraction of genes with an id.
        share_of_counts: Fraction of counts of genes with an id.
        unmatched: Names of genes without an id, by descending counts.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import GeneTable, match_genes
        >>> adata = datasets.toy_tissue(200, 2, seed=0)
        >>> adata.var_names = ["GFAP", "unheard of"]
        >>> match = match_genes(adata, "human", GeneTable(human={"GFAP": "ENSG00000131095"}))
        >>> match.organism, match.share_of_genes, match.unmatched
        ('human', 0.5, ['unheard of'])
    """

    organism: str
    names: np.ndarray
    ids: np.ndarray
    share_of_genes: float
    share_of_counts: float
    unmatched: list[str]

    def __str__(self) -> str:
        matched = np.flatnonzero(self.ids != "")
        named = [f"{self.names[i]} -> {self.ids[i]}" for i in matched]
        text = (
            f"{len(matched)} of {len(self.ids)} {self.organism} genes "
            f"({self.share_of_genes:.0%}, with {self.share_of_counts:.0%} of the counts) "
            f"have a human Ensembl id"
        )
        if named:
            text += f" ({preview(named, _EXAMPLES)})"
        if self.unmatched:
            text += f"; those without, most counted first: {preview(self.unmatched, _EXAMPLES)}"
        return text


def match_genes(adata: AnnData, organism: str = "auto", table: Table | None = None) -> GeneMatch:
    """Find the human Ensembl id of each gene, without changing ``adata``.

    Names are taken from ``var_names`` and the usual columns of ``var`` (``ensembl_id``,
    ``gene_ids``, ``gene_symbol``, ``gene_name``, ``feature_name`` and the like). An Ensembl id
    takes precedence; then symbols, source by source. Human Ensembl ids are kept, without their
    versions; mouse genes are mapped to their human orthologs (:class:`GeneTable`).

    Args:
        adata: Raw counts in ``X``.
        organism: Organism of the genes. ``"auto"`` (default): that of most Ensembl ids, prefixes of
            genomes, and symbols that only one species has.
        table: A :class:`GeneTable`, or files for :meth:`GeneTable.read`. ``None`` (default):
            :meth:`GeneTable.installed`. Human Ensembl ids need none.

    Returns:
        The human Ensembl id of each gene, and how many genes and counts have one.

    Warns:
        UserWarning: Some names are not human Ensembl ids, and there are no tables to match them.

    Raises:
        ImportError: There are symbols or mouse genes, but no tables.
        TypeError: ``table`` has the wrong type, or ``X`` is not numeric.
        ValueError: Names are numbers, of two species or of no known one, or the counts are invalid
            (see :func:`as_counts`).

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import GeneTable, match_genes
        >>> adata = datasets.toy_tissue(200, 2, seed=0)
        >>> adata.var_names = ["GFAP", "unheard of"]
        >>> match_genes(adata, "human", GeneTable(human={"GFAP": "ENSG00000131095"})).ids.tolist()
        ['ENSG00000131095', '']
    """
    return match_counts(adata, counts_with_duplicate_names(adata, copy=False), organism, table)


def match_counts(
    adata: AnnData, counts: sp.csr_matrix, organism: str, table: Table | None
) -> GeneMatch:
    """Match genes as :func:`match_genes` does, with counts that were read before."""
    if organism not in ("auto", *ORGANISMS):
        raise ValueError(f"organism must be 'auto', 'human' or 'mouse'; found {organism!r}")
    names = gene_names(adata)
    if organism == "auto" and names.organism.all():  # by prefixes, without tables
        organism = _organism(adata, names, GeneTable())
    tables = _tables(names, organism, table)
    if organism == "auto":
        organism = _organism(adata, names, tables)
    ids = _human_ids(names, organism, tables)
    ids[~gene_mask(adata.var)] = ""  # antibodies may have names of genes
    matched = ids != ""
    counts_per_gene = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    order = np.argsort(-counts_per_gene, kind="stable")
    return GeneMatch(
        organism=organism,
        names=adata.var_names.to_numpy(dtype=object),
        ids=ids,
        share_of_genes=float(matched.mean()),
        share_of_counts=float(counts_per_gene[matched].sum() / counts_per_gene.sum()),
        unmatched=[str(name) for name in adata.var_names[order[~matched[order]]]],
    )


def _tables(names: GeneNames, organism: str, table: Table | None) -> GeneTable:
    if isinstance(table, GeneTable):
        return table
    if isinstance(table, str | Path):
        return GeneTable.read(table)
    if table is not None:
        if not isinstance(table, Sequence) or not all(isinstance(f, str | Path) for f in table):
            raise TypeError(
                f"table must be a GeneTable, a file or a list of files; found {table!r}"
            )
        return GeneTable.read(*table)
    ready = np.char.startswith(names.ids.astype(str), ORGANISMS["human"])
    if organism != "mouse" and ready.all():
        return GeneTable()
    try:
        return GeneTable.installed()
    except ImportError as error:
        if organism == "mouse" or ready.mean() < _ENOUGH:
            raise
        warnings.warn(
            f"{int((~ready).sum())} of {len(ready)} genes have no human Ensembl id, and are left "
            f"out: {error}",
            stacklevel=2,
        )
        return GeneTable()


def _organism(adata: AnnData, names: GeneNames, tables: GeneTable) -> str:
    known_organism = names.organism.copy()
    for symbols in names.symbols:
        known = [np.array([s in tables.symbols(o) for s in symbols], bool) for o in ORGANISMS]
        for i, organism in enumerate(ORGANISMS):
            known_organism[(known_organism == "") & known[i] & ~known[1 - i]] = organism
    genes_of = {organism: adata.var_names[known_organism == organism] for organism in ORGANISMS}
    n_genes = {organism: len(genes) for organism, genes in genes_of.items()}
    if not any(n_genes.values()):
        raise ValueError(
            f"no name is a known gene of human or mouse as it is written: var_names are "
            f"{preview(adata.var_names, _EXAMPLES)}, and var has "
            f"{listed(adata.var)}; put symbols or Ensembl ids into "
            "var_names, or give the organism if only the case is wrong"
        )
    if min(n_genes.values()) > _MIXED * sum(n_genes.values()):
        parts = [f"{len(genes)} {name} ({preview(genes)})" for name, genes in genes_of.items()]
        raise ValueError(
            f"genes of two species: {' and '.join(parts)}; split them first, and harmonize each "
            "part separately: adata[cells, genes].copy()"
        )
    return max(n_genes, key=lambda organism: n_genes[organism])


def _human_ids(names: GeneNames, organism: str, tables: GeneTable) -> np.ndarray:
    """Return human ids, ``""`` where there is none or the gene is of another organism."""
    candidate = (names.organism == organism) | (names.organism == "")
    ids = np.where(candidate, names.ids, "")
    if organism == "mouse":
        ids = tables.to_human(ids)
    for symbols in names.symbols:
        for variant in (symbols, without_copy_number(symbols), with_dashes(symbols)):
            unmatched = np.flatnonzero(candidate & (ids == "") & (variant != ""))
            found = tables.ids(variant[unmatched], organism)
            ids[unmatched] = tables.to_human(found) if organism == "mouse" else found
    return ids
