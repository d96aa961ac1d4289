"""Recognise the format of a file or folder by names and metadata, before it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stofm_geo._files import check_name, read_json
from stofm_geo._replace import recover_folder
from stofm_geo._validation import listed

ELEMENTS = ("images", "labels", "points", "shapes", "tables")  # of SpatialData
SUFFIXES = (".h5ad", ".zarr")  # that can be written
_GROUP = ("zarr.json", ".zgroup")  # one of them is in each zarr group


@dataclass(frozen=True)
class Vendor:
    """Output folder of an instrument.

    Attributes:
        name: What it is called, also in ``uns["technology"]``.
        reader: Function of ``spatialdata_io`` that reads it; ``None``: it holds an ``.h5ad``.
        files: Patterns; a folder that has a match of each is recognised.
    """

    name: str
    reader: str | None
    files: tuple[str, ...]


SLIDE_SEQ = "*anndata.h5ad"
# The first that matches; Visium HD holds what Visium does, in folders of bins.
VENDORS = (
    Vendor("Visium HD", "visium_hd", ("*feature_slice.h5",)),
    Vendor("Visium", "visium", ("*feature_bc_matrix.h5", "spatial/tissue_positions*.csv")),
    Vendor("Xenium", "xenium", ("experiment.xenium",)),
    Vendor("MERSCOPE", "merscope", ("cell_by_gene.csv", "cell_metadata.csv")),
    Vendor("CosMx", "cosmx", ("*_exprMat_file.csv", "*_metadata_file.csv")),
    Vendor("Stereo-seq", "stereoseq", ("02.count", "041.cellcut")),
    Vendor("Slide-seq", None, (SLIDE_SEQ, "*cluster_assignment.txt")),
)


@dataclass(frozen=True)
class Location:
    """Where a table of cells is, and in which format.

    Attributes:
        kind: Of the file or folder.
        path: The file or folder; of SpatialData the store.
        table: Name of the table, where there may be several.
        vendor: Whose folder it is, for ``kind="vendor"``.
    """

    kind: Literal["h5ad", "anndata", "spatialdata", "vendor"]
    path: Path
    table: str | None = None
    vendor: Vendor | None = None

    @property
    def has_elements(self) -> bool:
        """Whether there may be tables that annotate elements."""
        return self.kind == "spatialdata" or bool(self.vendor and self.vendor.reader)

    @property
    def group(self) -> Path:
        """The zarr group of the table."""
        return self.path / "tables" / self.table if self.table is not None else self.path


def recognise(path: str | Path) -> Location | None:
    """Return what is at a path, ``None`` where it is of no known format.

    A table within a SpatialData store is recognised as such; of a store, no table is chosen.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A zarr folder is incomplete, or the name is not UTF-8.
    """
    path = Path(path)
    check_name(path)
    recover_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        return Location("h5ad", path) if path.suffix == ".h5ad" else None
    if is_group(path) or path.suffix == ".zarr":
        return _zarr(path)
    for vendor in VENDORS:
        if all(any(path.glob(pattern)) for pattern in vendor.files):
            return Location("vendor", path, vendor=vendor)
    return None


def locate(path: str | Path, table: str | None = None) -> Location:
    """Return where the table at a path is; of SpatialData the table that is named, or the only one.

    Args:
        path: File or folder.
        table: Name of the table.

    Raises:
        FileNotFoundError: Nothing is there.
        KeyError: There is no such table.
        ValueError: The format is not known, a zarr folder is incomplete, or it has no table, or
            several and none is named.
    """
    found = recognise(path)
    if found is None:
        raise _unknown(path)
    if found.kind == "h5ad" and not found.path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: is no file; name an .h5ad file")
    if found.kind == "spatialdata":
        name = found.table or choose_table(tables_of(found.path), table, str(path))
        return Location("spatialdata", found.path, name)
    if found.has_elements:
        return replace(found, table=table)
    if table is not None:
        raise ValueError(
            f"{path}: has no named tables, and {table!r} is asked for; leave it out, and name the "
            "folder of a table of SpatialData instead (STORE.zarr/tables/NAME)"
        )
    return found


def choose_table(tables: list[str], table: str | None, name: str) -> str:
    """Return the table that is named, or the only one there is.

    Args:
        tables: Their names.
        table: The one that is asked for; ``None``: the only one.
        name: Of the store, in messages.

    Raises:
        KeyError: There is no such table.
        ValueError: There is none, or several and none is named.
    """
    if not tables:
        raise ValueError(
            f"{name}: has no table, and so no counts; aggregate them into one (spatialdata."
            "aggregate), or name another store"
        )
    if table is None and len(tables) > 1:
        raise ValueError(
            f"{name}: has {len(tables)} tables, {listed(tables)}; name one: table={tables[0]!r} "
            f"(--table {tables[0]})"
        )
    if table is not None and table not in tables:
        raise KeyError(f"{name}: has no table {table!r}; it has {listed(tables)}")
    return table or tables[0]


def tables_of(store: Path) -> list[str]:
    """Return the names of the tables of a SpatialData store, sorted."""
    folder = store / "tables"
    if not folder.is_dir():
        return []
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _unknown(path: str | Path) -> ValueError:
    """Return what to raise; of a folder, by what those of vendors are recognised."""
    names = [vendor.name for vendor in VENDORS]
    if Path(path).is_dir():
        names = [f"{vendor.name} ({', '.join(vendor.files)})" for vendor in VENDORS]
    what = "a folder" if Path(path).is_dir() else "a file"
    return ValueError(
        f"{path}: is {what} of no known format; known are .h5ad files, .zarr folders of AnnData or "
        f"SpatialData, and folders of {'; '.join(names)}"
    )


def is_group(folder: Path) -> bool:
    """Return whether a folder is a zarr group."""
    return any((folder / name).is_file() for name in _GROUP)


def _zarr(path: Path) -> Location:
    if _is_spatialdata(path):
        _check_group(path, "the store")
        return Location("spatialdata", path)
    real = path.resolve()
    store = real.parent.parent
    if real.parent.name == "tables" and is_group(store) and _is_spatialdata(store):
        return Location("spatialdata", store, real.name)
    _check_group(path, "the folder")
    return Location("anndata", path)


def _is_spatialdata(path: Path) -> bool:
    if (path / "obs").exists():
        return False
    if any((path / name).is_dir() for name in ELEMENTS):
        return True
    for name in ("zarr.json", ".zattrs"):
        if (path / name).is_file():
            attributes = read_json(path / name)
            if name == "zarr.json" and isinstance(attributes, dict):
                attributes = attributes.get("attributes")
            if isinstance(attributes, dict) and "spatialdata_attrs" in attributes:
                return True
    return False


def _check_group(path: Path, what: str) -> None:
    if not is_group(path):
        raise ValueError(
            f"{path}: {what} is incomplete, it has neither {' nor '.join(_GROUP)}; was it written "
            "or copied to its end? Write or copy it again"
        )
