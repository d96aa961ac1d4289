"""Write a table into a store of SpatialData; all else in it stays as it is, byte for byte.

The new store is made beside the old, from hard links to its files and the new table, and both
exchange their names (:mod:`stofm_geo._replace`): a kill leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from anndata import AnnData
from anndata.io import read_elem, write_elem

from stofm_geo._files import atomic_folder, check_folder, copy_contents, read_json
from stofm_geo._keys import Keys
from stofm_geo._storable import make_storable
from stofm_geo.data.io.formats import Location
from stofm_geo.data.io.zarr import METADATA, open_anndata, require_zarr
from stofm_geo.data.stores import check_zarr

_TABLES = "tables"
_REPLACED = (_TABLES, *METADATA)


def check_store(where: Location, target: Path | None = None) -> None:
    """Check that :func:`write_table` can write; before long work.

    Args:
        where: The table.
        target: See :func:`write_table`.

    Raises:
        FileExistsError: ``target`` holds something.
        OSError: The store, or its copy, cannot be written.
        ValueError: The store is not safe to read.
    """
    store = Path(os.path.realpath(where.path))
    check_zarr(store)
    if target is not None:
        check_folder(target, (), make=True)
        return
    check_folder(store, None)
    for folder in (store, store / _TABLES, where.group):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(
                f"{where.path}: cannot be written (you have no right to write {folder}); copy the "
                "store to where you have, or name another output"
            )


def write_table(adata: AnnData, where: Location, target: str | Path | None = None) -> None:
    """Write cells into the table of a store that they were read from.

    Positions of elements, which :func:`~stofm_geo.read` has added, are not written: they would be
    there twice.

    Args:
        adata: Mended in place where a folder cannot hold it as it is.
        where: The table.
        target: Write a copy of the store here. ``None``: into the store.

    Raises:
        FileExistsError: ``target`` holds something.
        OSError: The store cannot be written, or the disk is full.
        ValueError: The cells or genes are not those of the table.
    """
    require_zarr(where.path)
    import zarr

    store, name = Path(os.path.realpath(where.path)), where.group.name
    old = open_anndata(where.group)
    attributes = dict(old.attrs)
    _check_same(adata, old, where)
    make_storable(adata, str(where.path))
    inside = target is None
    with atomic_folder(target or store, _REPLACED if inside else (), keep_others=inside) as new:
        if not inside:
            copy_contents(store, new, _REPLACED)
        (new / _TABLES).mkdir()
        copy_contents(store / _TABLES, new / _TABLES, (name, *METADATA), link=inside)
        for folder in (Path(), Path(_TABLES)):
            for file in METADATA:  # no links, for they are changed
                if (store / folder / file).is_file():
                    shutil.copy2(store / folder / file, new / folder / file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of zarr, about its next version
            tables: Any = zarr.open_group(new / _TABLES, mode="r+", use_consolidated=False)
            write_elem(tables, name, _as_stored(adata, old))
            tables[name].attrs.update(attributes)
        _update_consolidated(new, new / _TABLES / name)
        _update_consolidated(new / _TABLES, new / _TABLES / name)


def _as_stored(adata: AnnData, old: Any) -> AnnData:
    """Return the cells with the positions of the table, or none, instead of those of elements.

    The unit of lengths is that of the positions.
    """
    if Keys.POSITIONS not in adata.uns:
        return adata
    kept = adata.copy()
    del kept.uns[Keys.POSITIONS], kept.obsm[Keys.SPATIAL]
    if Keys.SPATIAL in old["obsm"]:
        kept.obsm[Keys.SPATIAL] = read_elem(old["obsm"][Keys.SPATIAL])
    kept.uns.pop(Keys.UNIT, None)
    if "uns" in old and Keys.UNIT in old["uns"]:
        kept.uns[Keys.UNIT] = read_elem(old["uns"][Keys.UNIT])
    return kept


def _check_same(adata: AnnData, old: Any, where: Location) -> None:
    for axis, what in (("obs", "cells"), ("var", "genes")):
        there = read_elem(old[axis]).index.astype(str)
        given = getattr(adata, axis).index.astype(str)
        if not given.equals(there):
            raise ValueError(
                f"{where.path}: its table {where.table!r} has {len(there)} {what}, and the "
                f"{len(given)} to write are others, or in another order; write them to another "
                "path"
            )


def _update_consolidated(group: Path, table: Path) -> None:
    """Replace what a group says of the arrays of a table, if it says that of all arrays.

    The rest is left as it is, that of codecs which are not installed, too.
    """
    if (group / "zarr.json").is_file():
        told = read_json(group / "zarr.json")
        if told.get("consolidated_metadata"):
            _replace(told["consolidated_metadata"]["metadata"], group, table)
            (group / "zarr.json").write_text(json.dumps(told, indent=2))
    if (group / ".zmetadata").is_file():
        told = read_json(group / ".zmetadata")
        _replace(told["metadata"], group, table)
        (group / ".zmetadata").write_text(json.dumps(told, indent=4))


def _replace(told: dict[str, Any], group: Path, table: Path) -> None:
    of_table = table.relative_to(group).as_posix()
    for key in [key for key in told if key == of_table or key.startswith(f"{of_table}/")]:
        del told[key]
    for file in sorted(table.rglob("*")):
        if file.name == "zarr.json":
            told[file.parent.relative_to(group).as_posix()] = read_json(file)
        elif file.name in (".zgroup", ".zarray", ".zattrs"):
            told[file.relative_to(group).as_posix()] = read_json(file)
