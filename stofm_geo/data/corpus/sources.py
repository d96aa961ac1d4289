"""What slices there are in files and folders, and how one is read."""

from __future__ import annotations

import glob
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._anndata_checks import check_positions, check_slice_key
from stofm_geo._keys import Keys
from stofm_geo._names import read_names
from stofm_geo._stacked import is_usual, resolve_slice_key
from stofm_geo._validation import error_context, listed, preview
from stofm_geo.data.corpus.counts import SmallCounts, read_counts
from stofm_geo.data.io.formats import locate, recognise, tables_of
from stofm_geo.data.io.opening import open_table
from stofm_geo.data.slices import check_enough, checked_pose
from stofm_geo.genes.controls import gene_mask, warn_of_left_out_controls
from stofm_geo.genes.counts import check_unique
from stofm_geo.genes.harmonize import human_genes

if TYPE_CHECKING:
    from typing_extensions import Unpack

_COLUMNS = ("path", "slice", "technology", "organism")  # of a manifest


@dataclass(frozen=True)
class Source:
    """One table of cells: a file or folder that :func:`stofm_geo.read` can read.

    Attributes:
        path: Absolute; of SpatialData the folder of the table.
        slice: Column of ``obs`` that tells slices apart, or the name of one slice in a column of a
            usual name (``slice_id``, ``library_id``); ``None``: see :func:`slices_of`.
        technology: ``""``: what ``uns["technology"]`` says.
        organism: See :func:`~stofm_geo.genes.harmonize`; ``"none"``: genes stay as they are.
        table: Name of the table, of a vendor's folder that has several (Visium HD).

    Raises:
        ValueError: ``organism`` is not known.
    """

    path: str
    slice: str | None = None
    technology: str = ""
    organism: str = "auto"
    table: str | None = None

    def __post_init__(self) -> None:
        if self.organism not in ("auto", "human", "mouse", "none"):
            raise ValueError(
                f"organism must be auto, human, mouse or none; found {self.organism!r}"
            )


@dataclass(frozen=True)
class Slice:
    """One slice of a source.

    Attributes:
        source: Where it is.
        key: Column of ``obs``; ``None``: all cells are this slice.
        name: In that column.
    """

    source: Source
    key: str | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.source.path}, slice {self.name!r}" if self.key else self.source.path

    @property
    def folder(self) -> str:
        """A name for a folder, the same wherever the slice is among others."""
        said = re.sub(r"[^A-Za-z0-9]+", "-", f"{Path(self.source.path).stem}-{self.name}")
        digest = hashlib.sha256(f"{self.source.path}\n{self.key}\n{self.name}".encode()).hexdigest()
        return f"{said.strip('-')[:80]}-{digest[:10]}"


@dataclass
class CorpusSlice:
    """A slice, checked, in its own frame.

    Attributes:
        counts: ``[n, G]``.
        genes: Their names, sorted, ``[G]``.
        pos: Positions in cell spacings, ``[n, 2]`` float64.
        row: Row of each cell in the source, ``[n]``.
        unit: The cell spacing, in the unit of the source.
        technology: Its name, or ``""``.
        report: What :func:`~stofm_geo.genes.harmonize` found; empty where genes stay.
    """

    counts: SmallCounts
    genes: np.ndarray
    pos: np.ndarray
    row: np.ndarray
    unit: float
    technology: str
    report: dict[str, Any]


class SourceOptions(TypedDict, total=False):
    """Attributes of a :class:`Source` beside its path."""

    slice: str | None
    technology: str
    organism: str


def find_sources(
    paths: Sequence[str | Path], *, table: str | None = None, **given: Unpack[SourceOptions]
) -> list[Source]:
    """Return the tables at some paths, each once.

    Args:
        paths: Files and folders of all formats of :func:`stofm_geo.read`; folders, in which all of
            these are looked for; patterns (``*``, ``**``).
        table: Name of the table of stores, and of vendors' folders that have several; ``None``:
            all tables of stores.
        given: Other attributes of each :class:`Source`.

    Raises:
        FileNotFoundError: A name stands for nothing.
        KeyError: A store has no such table.
        ValueError: The format is not known; or an organism that is not known.
    """
    found: dict[str, Source] = {}
    for name in map(str, paths):
        names = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        there = [found for path in names for found in _tables(Path(path).resolve(), table)]
        if not there:
            raise FileNotFoundError(f"{name}: no .h5ad files or zarr folders there")
        for one, of_vendor in there:
            found.setdefault(str(one), Source(str(one), table=of_vendor, **given))
    return list(found.values())


def _tables(path: Path, table: str | None) -> Iterator[tuple[Path, str | None]]:
    """Yield files and folders of tables, and the names of those that share their folder."""
    found = recognise(path)
    if found is None and path.is_dir():
        for inside in sorted(path.iterdir()):
            if inside.suffix == ".h5ad" or (inside.is_dir() and not inside.name.startswith(".")):
                yield from _tables(inside, table)
    elif found is not None and found.kind == "spatialdata" and table is None:
        names = [found.table] if found.table else tables_of(found.path)
        yield from ((replace(found, table=name).group, None) for name in names)
    elif found is not None and found.kind == "spatialdata":
        yield locate(path, table).group, None
    else:
        named = found is not None and found.has_elements
        yield locate(path).path, table if named else None


def read_manifest(
    path: str | Path, *, table: str | None = None, **given: Unpack[SourceOptions]
) -> list[Source]:
    """Read the sources in a CSV file: columns path, slice, technology and organism.

    All but ``path`` may be missing or empty. Names are relative to the file's folder.

    Args:
        path: The file.
        table: See :func:`find_sources`.
        given: What is taken where a column says nothing.

    Raises:
        FileNotFoundError: It, or a path in it, is not there.
        ValueError: It has other columns, or an organism that is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error})") from error
    if "path" not in rows or not set(rows) <= set(_COLUMNS):
        raise ValueError(f"{path}: columns are {list(rows)}; {list(_COLUMNS)} are known")
    found = []
    for i, row in enumerate(rows.to_dict("records")):
        told = {name: value for name, value in row.items() if name != "path" and value}
        with error_context(f"{path}, line {i + 2}"):
            found += find_sources([path.parent / row["path"]], table=table, **{**given, **told})
    return list(dict.fromkeys(found))


def slices_of(source: Source) -> list[Slice]:
    """Return the slices of a source.

    Where none is named, the table of a SpatialData is taken apart by its ``region_key``, and all
    cells of another are one slice.

    Raises:
        KeyError: There is neither such a column nor such a slice.
        ValueError: The source cannot be read.
    """
    with open_table(source.path, source.table) as table, error_context(source.path):
        obs, key, only = table.obs, source.slice, None
        if key is None and "spatialdata_attrs" in table.uns:
            key = table.uns["spatialdata_attrs"].get("region_key")
        elif key is not None and key not in obs:
            usual = [name for name in Keys.SLICES if name in obs]
            if not usual:
                raise KeyError(
                    f"obs has no column {key!r}, nor one of {list(Keys.SLICES)} in which it could "
                    f"be a slice; it has {listed(obs)}"
                )
            key, only = usual[0], key
        if key is None:
            return [Slice(source)]
        names = list(check_slice_key(obs, key).categories)
        if only is not None and only not in names:
            only = read_names([only])[0]  # "1.0", as spreadsheets write what is "1" there
        if only is not None and only not in names:
            raise KeyError(f"obs[{key!r}] has no slice {only!r}; it has {preview(names)}")
        return [Slice(source, key, name) for name in ([only] if only else names)]


def read_slice(which: Slice, *, spatial_key: str = Keys.SPATIAL, min_cells: int = 1) -> CorpusSlice:
    """Read one slice, and of ``X`` its rows alone.

    Raises:
        KeyError, TypeError, ValueError: What is wrong with it; see
            :func:`~stofm_geo.data.split_slices` and :func:`~stofm_geo.genes.harmonize`.
    """
    source = which.source
    opened = open_table(source.path, source.table, spatial_key)
    with opened as table, error_context(which.label):
        rows = np.arange(len(table.obs))
        if which.key is not None:
            rows = np.flatnonzero(check_slice_key(table.obs, which.key) == which.name)
        check_enough(len(rows), min_cells)  # before the counts are read
        if spatial_key not in table.obsm:
            raise KeyError(f"obsm has no {spatial_key!r}; store the cells' x and y there")
        places = table.obsm[spatial_key]
        if isinstance(places, pd.DataFrame):
            of_rows = places.iloc[rows].set_axis(rows.astype(str))
        else:
            of_rows = places[rows]
        # Names are numbers in the file, for messages.
        cells = AnnData(obs=pd.DataFrame(index=rows.astype(str)), obsm={spatial_key: of_rows})
        pos = check_positions(cells, spatial_key)
        for column in filter(is_usual, table.obs):
            cells.obs[column] = np.asarray(table.obs[column], dtype=object)[rows]
        resolve_slice_key(cells, pos, spatial_key, which.key, beside=True)
        counts = read_counts(table.x, rows, table.var)
        technology = source.technology
        if not technology and Keys.TECHNOLOGY in table.uns:
            technology = str(table.uns[Keys.TECHNOLOGY])
        counts, genes, report = _genes(counts, table.var, source.organism)
        full = np.flatnonzero(counts.filled)
        if len(full) < len(rows):
            warnings.warn(
                f"{len(rows) - len(full)} of {len(rows)} cells have no counts and are left out",
                stacklevel=2,
            )
            counts, pos, rows = counts.select(full), pos[full], rows[full]
        order, pos, unit = checked_pose(counts, pos, min_cells, genes)
        counts.order = order
    return CorpusSlice(counts, genes, pos, rows[order], unit, technology, report)


def _genes(
    counts: SmallCounts, var: pd.DataFrame, organism: str
) -> tuple[SmallCounts, np.ndarray, dict[str, Any]]:
    """Return counts, gene names and a report; human genes, or all genes as they are, by name."""
    if organism != "none":
        totals = counts.sums()
        genes, _, sums, report = human_genes(AnnData(totals, var=var), totals, organism)
        return counts.times(sums), genes, report
    names = var.index.astype(str)
    check_unique(names)
    genes = gene_mask(var)
    warn_of_left_out_controls(var, genes)
    order = np.argsort(names.to_numpy())
    order = order[genes[order]]
    if len(order) < len(names) or not names.is_monotonic_increasing:
        counts = counts.times(sp.identity(len(names), np.float32, format="csr")[:, order])
    return counts, names.to_numpy()[order], {}
