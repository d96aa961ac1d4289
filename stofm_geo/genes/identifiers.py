"""Gene names and ids of an AnnData."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._validation import listed, preview
from stofm_geo.genes.gene_table import ORGANISMS

_COLUMNS = ("ensembl_id", "gene_ids", "gene_id", "ensembl", "feature_id")
_MIN_FRACTION = 0.5  # of names that are Ensembl ids, or numbers
# Columns of var that gene_names uses beside var_names, without those of orthologs.
_NAME_COLUMNS = (
    *_COLUMNS,
    "ensembl_gene_id",
    "gene_symbol",
    "gene_symbols",
    "symbol",
    "gene_name",
    "gene_names",
    "gene_short_name",
    "feature_name",
    "gene",
)
_ENSEMBL = r"^(ENS(?:MUS)?G\d{11})(?:[._].*)?$"  # with a version, and GENCODE's _PAR_Y
# Prefix of Cell Ranger, for reads aligned to two genomes.
_GENOME = r"^(?:(GRCh\d+|hg\d+)|(GRCm\d+|mm\d+))_+(.+)$"
_COPY = r"^(.+)[-.]\d+$"  # suffix of var_names_make_unique, and of make.unique in R


def ensembl_ids(adata: AnnData) -> np.ndarray:
    """Return Ensembl ids without versions, from ``var_names`` or a usual column of ``var``.

    Args:
        adata: Cells, of whose genes at least half have an Ensembl id in ``var_names``, or in
            ``var["ensembl_id"]``, ``var["gene_ids"]`` or the like.

    Returns:
        ``[G]`` strings.

    Raises:
        KeyError: There are no Ensembl ids.

    Examples:
        >>> import pandas as pd
        >>> from anndata import AnnData
        >>> from stofm_geo.genes import ensembl_ids
        >>> adata = AnnData(var=pd.DataFrame({"gene_ids": ["ENSG00000131095.12"]}, index=["GFAP"]))
        >>> ensembl_ids(adata).tolist()
        ['ENSG00000131095']
    """
    candidates = [adata.var_names, *(adata.var[c] for c in _COLUMNS if c in adata.var)]
    for names in candidates:
        names = np.asarray(names, dtype=str)
        if len(names) and np.char.startswith(names, "ENS").mean() >= _MIN_FRACTION:
            return np.char.partition(names, ".")[:, 0]
    raise KeyError(
        f"no Ensembl ids: var_names are {preview(adata.var_names)}, and var has "
        f"{listed(adata.var)}; put them into var['ensembl_id'], or let "
        "stofm_geo.genes.harmonize(adata) find them from symbols"
    )


@dataclass(frozen=True)
class GeneNames:
    """Ids and symbols of an AnnData's genes; ``""`` where they are unknown.

    Attributes:
        ids: Ensembl id of each gene, without version, ``[G]``.
        organism: Organism by the id or the prefix of the genome, ``[G]``.
        symbols: Names that are not Ensembl ids, an array ``[G]`` per source, in order of
            precedence.
    """

    ids: np.ndarray
    organism: np.ndarray
    symbols: list[np.ndarray]


def gene_names(adata: AnnData) -> GeneNames:
    """Return ids and symbols from ``var_names`` and the usual columns of ``var``, in any case.

    The id of a gene is the first valid one. Prefixes of genomes (``GRCh38_``, ``mm10___``) are
    removed.

    Raises:
        ValueError: The names are numbers.
    """
    columns = {column.lower(): column for column in adata.var.columns.astype(str)[::-1]}
    usual = [columns[name] for name in _NAME_COLUMNS if name in columns]
    ids = organism = pd.Series("", index=range(adata.n_vars), dtype=object)
    symbols = []
    for names in (adata.var_names, *(adata.var[column] for column in usual)):
        names = pd.Series(np.asarray(names, dtype=object))
        names = names.where(names.notna(), "").astype(str).str.strip()
        if names.str.contains("_", regex=False).any():
            genome = names.str.extract(_GENOME)
            names = genome[2].fillna(names)
            known = np.where(genome[0].notna(), "human", np.where(genome[1].notna(), "mouse", ""))
            organism = organism.where(organism != "", known)
        valid = names.str.extract(_ENSEMBL)[0].fillna("")
        ids = ids.where(ids != "", valid)
        symbols.append(names.where(valid == "", "").to_numpy(dtype=object))
    known = np.where(ids.str.startswith(ORGANISMS["mouse"]), "mouse", "human")
    organism = organism.where(ids == "", known)
    _check_not_numbers(adata, ids, symbols, usual)
    return GeneNames(ids.to_numpy(dtype=object), organism.to_numpy(dtype=object), symbols)


def without_copy_number(symbols: np.ndarray) -> np.ndarray:
    """Return ``TBCE`` for ``TBCE-1`` if both occur, as in names made unique; else ``""``."""
    names = pd.Series(symbols)
    stem = names.str.extract(_COPY)[0].fillna("")
    return stem.where(stem.isin(names), "").to_numpy(dtype=object)


def with_dashes(symbols: np.ndarray) -> np.ndarray:
    """Return ``HLA-B`` for ``HLA.B``, as R's make.names writes it."""
    return pd.Series(symbols).str.replace(".", "-", regex=False).to_numpy(dtype=object)


def _check_not_numbers(
    adata: AnnData, ids: pd.Series, symbols: list[np.ndarray], usual: list[str]
) -> None:
    numbers = ids == ""
    for names in symbols:
        names = pd.Series(names)
        numbers &= (names == "") | names.str.fullmatch(r"\d+(\.0)?")
    if len(numbers) and numbers.mean() > _MIN_FRACTION:
        looked = f" and var[{', '.join(map(repr, usual))}]" if usual else ""
        raise ValueError(
            f"var_names{looked} hold numbers or nothing instead of gene names "
            f"({preview(adata.var_names)}): row numbers, or Entrez ids? put symbols or Ensembl "
            f"ids into var_names; var has {listed(adata.var)}"
        )
