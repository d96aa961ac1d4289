"""The writer of all formats, and the plan of what a command writes where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from stofm_geo._files import check_folder, check_writable
from stofm_geo.data.io.formats import SUFFIXES, Location, locate, recognise
from stofm_geo.data.io.h5ad import write_h5ad
from stofm_geo.data.io.store import check_store, write_table
from stofm_geo.data.io.zarr import ANNDATA, require_zarr, write_anndata_zarr


def write(adata: AnnData, path: str | Path, *, table: str | None = None) -> None:
    """Write cells, as a whole: if the process is killed, the previous file or folder remains.

    Args:
        adata: Cells; parts that files cannot hold are converted in place
            (:func:`~stofm_geo.data.prepare_for_writing`).
        path: A new or existing ``.h5ad`` file or ``.zarr`` folder of AnnData; or an existing store
            of SpatialData, of which one table is replaced and the rest stays as it is. Cells and
            genes must be those of the table.
        table: Name of the table of a store; ``None``: the only one.

    Raises:
        FileExistsError: ``path`` is a file instead of a folder, or the folder holds other files.
        ImportError: A package is not installed; the message says which.
        KeyError: There is no such table.
        OSError: It cannot be written.
        ValueError: The format is not known, or the cells are not those of the table.

    Examples:
        >>> import os, tempfile
        >>> from stofm_geo import datasets, write
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(datasets.toy_tissue(200, 30, seed=0), f"{folder}/tissue.h5ad")
        ...     print(os.listdir(folder))
        ['tissue.h5ad']
    """
    _target(Path(path), table).write(adata)


@dataclass(frozen=True)
class Target:
    """Where cells are to be written.

    Attributes:
        path: The file or folder.
        store: Table of SpatialData that the cells are of: it is replaced, in the store or in a copy
            of the store at ``path``.
    """

    path: Path
    store: Location | None = None

    @property
    def inside(self) -> bool:
        """Whether it is the store itself that is written into."""
        return self.store is not None and os.path.realpath(self.path) == os.path.realpath(
            self.store.path
        )

    def check(self, *, make: bool = False) -> None:
        """Check that :meth:`write` can write; before long work.

        Args:
            make: The folder need not exist, if it can be made.
        """
        if self.path.suffix == ".h5ad":
            check_writable(self.path, make=make)
            return
        require_zarr(self.path)
        if self.store is not None:
            check_store(self.store, None if self.inside else self.path)
        else:
            check_folder(self.path, ANNDATA, make=make)

    def write(self, adata: AnnData) -> None:
        """Write cells; see :func:`write`."""
        if self.path.suffix == ".h5ad":
            write_h5ad(adata, self.path)
        elif self.store is not None:
            write_table(adata, self.store, None if self.inside else self.path)
        else:
            write_anndata_zarr(adata, self.path)


def output_targets(
    sources: Sequence[Path], output: Path, *, table: str | None = None
) -> list[Target]:
    """Return where to write the cells of each source, after checking that they can be written.

    Args:
        sources: Files and folders that cells are read from.
        output: An ``.h5ad`` file or ``.zarr`` folder for one source; a folder for several. A store
            of SpatialData may be its own output, whose table is then replaced; at another path, a
            copy of the store with the new table is written.
        table: Name of the table, of stores.

    Raises:
        OSError: It cannot be written.
        ValueError: It does not fit the number of sources, or is one of them.
    """
    several = len(sources) > 1 or (output.is_dir() and output.suffix not in SUFFIXES)
    if not several:
        paths = [output]
    elif output.suffix in SUFFIXES:
        raise ValueError(
            f"{output}: {len(sources)} files cannot be written into one; name a folder"
        )
    else:
        paths = [output / _name(path) for path in sources]
        if len(set(paths)) < len(paths):
            raise ValueError(f"two of the {len(sources)} files have the same name; rename one")
    targets = []
    for source, path in zip(sources, paths, strict=True):
        found = locate(source, table)
        store = found if found.kind == "spatialdata" and path.suffix == ".zarr" else None
        target = Target(path, store)
        if not target.inside and os.path.realpath(path) == os.path.realpath(source):
            raise ValueError(f"{path}: is the input too; name another output")
        _check_suffix(path)
        target.check(make=several)
        targets.append(target)
    return targets


def _target(path: Path, table: str | None) -> Target:
    """Return where to write at a path: into the store that is there, or a new file or folder."""
    if path.is_dir() and path.suffix != ".h5ad":
        found = recognise(path)
        if found is not None and found.kind == "spatialdata":
            return Target(found.path, locate(path, table))
    _check_suffix(path)
    if table is not None:
        raise ValueError(
            f"{path}: is no store of SpatialData, and table {table!r} is named; leave the table out"
        )
    return Target(path)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: has no ending of a format that can be written; the output of one file must "
            f"end in {' or '.join(SUFFIXES)}"
        )


def _name(source: Path) -> str:
    """Return the name of the output in a folder: of the same format where it can be written."""
    name = source.name if source.name not in ("", "..") else source.resolve().name
    return name if Path(name).suffix in SUFFIXES else f"{name}.h5ad"
