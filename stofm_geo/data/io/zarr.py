"""Zarr folders of AnnData: checked before they are read, written whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
from anndata import AnnData

from stofm_geo._files import atomic_folder
from stofm_geo._storable import make_storable
from stofm_geo._validation import preview
from stofm_geo.data.stores import ElsewhereError, check_zarr, unreadable

if TYPE_CHECKING:
    import zarr

METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
_PARTS = ("X", "layers", "obs", "obsm", "obsp", "raw", "uns", "var", "varm", "varp")
ANNDATA = (*METADATA, *_PARTS)  # all that a folder of AnnData holds


def require_zarr(path: str | Path) -> None:
    """Check that zarr is installed.

    Raises:
        ImportError: It is not; the message says what to install.
    """
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{path}: zarr folders need zarr ({error}), and Python 3.11 or later; "
            "pip install 'stofm-geo[corpus]'"
        ) from error


def open_anndata(folder: str | Path) -> zarr.Group:
    """Open a zarr folder of AnnData, after checking it.

    Raises:
        ImportError: zarr is not installed.
        ValueError: It is not safe to read, not of AnnData, or parts of it are missing.
    """
    require_zarr(folder)
    import zarr

    try:
        check_zarr(Path(folder))
        # What is there counts, and not what is said of it in consolidated metadata.
        group = zarr.open_group(folder, mode="r", use_consolidated=False)
        if missing := [name for name in ("obs", "var") if name not in group]:
            raise ElsewhereError(
                f"{folder}: has no {preview(missing)}; is it of AnnData, and written to its end?"
            )
        _check_whole(folder, group)
    except ElsewhereError:
        raise
    except Exception as error:
        raise unreadable(folder, error) from error
    return group


def read_anndata_zarr(folder: str | Path) -> AnnData:
    """Read a zarr folder of AnnData.

    Raises:
        ImportError: zarr is not installed.
        ValueError: See :func:`open_anndata`; or it cannot be read.
    """
    group = open_anndata(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            adata = anndata.read_zarr(group)
        if not isinstance(adata, AnnData):
            raise TypeError("it is not of AnnData")
    except Exception as error:
        raise unreadable(folder, error) from error
    return adata


def write_anndata_zarr(adata: AnnData, path: str | Path) -> None:
    """Write a zarr folder of AnnData, whole or not at all.

    Args:
        adata: Mended in place where a folder cannot hold it as it is
            (:func:`~stofm_geo.data.prepare_for_writing`).
        path: Where to; a folder of AnnData is replaced.

    Raises:
        FileExistsError: A file is there, or a folder that holds something else.
        ImportError: zarr is not installed.
        OSError: It cannot be written, or the disk is full.
    """
    require_zarr(path)
    make_storable(adata, str(path))
    with atomic_folder(path, ANNDATA) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, about its next version
        adata.write_zarr(temporary)


def _check_whole(folder: str | Path, group: zarr.Group) -> None:
    """Check for what is missing that zarr or AnnData would read as something else.

    Zarr takes a chunk without a file for zeros, or for empty names. Zeros may have no file, so
    only arrays are looked at that cannot hold a chunk of them.

    Raises:
        ElsewhereError: Something is missing; the message says what.
    """
    problems = [*_without_metadata(group), *_without_chunks(folder, group)]
    if problems:
        raise ElsewhereError(
            f"{folder}: {problems[0]}; was it written or copied to its end? Write or copy it again"
        )


def _without_metadata(group: zarr.Group) -> Iterator[str]:
    for axis in ("obs", "var"):
        table: Any = group[axis]
        if hasattr(table, "nchunks"):  # of AnnData before 0.7
            continue
        if "_index" not in table.attrs:
            yield f"{axis} has lost its metadata"
        for name, column in table.groups():
            if name != "__categories" and "encoding-type" not in column.attrs:
                yield f"{axis}/{name} has lost its metadata"


def _without_chunks(folder: str | Path, group: zarr.Group) -> Iterator[str]:
    for axis in ("obs", "var"):
        table: Any = group[axis]
        index = table.attrs.get("_index")
        if isinstance(index, str) and index in table and hasattr(table[index], "nchunks"):
            yield from _missing(folder, table[index])
    counts: Any = group.get("X")
    if counts is None or hasattr(counts, "nchunks") or "indptr" not in counts:
        return
    yield from _missing(folder, counts["data"])
    pointers, genes = counts["indptr"], counts["indices"]
    if int(pointers[-1]) != counts["data"].shape[0]:
        yield from _missing(folder, pointers)
    if genes.shape[0] >= pointers.shape[0]:  # else all may be in the first gene
        yield from _missing(folder, genes, but=int(_chunks(genes) > 1))


def _missing(folder: str | Path, array: Any, but: int = 0) -> Iterator[str]:
    """Yield what to say if an array lacks more than some chunks, or shards of them."""
    there, of = _stored(folder, array), _chunks(array)
    if there < of - but:
        yield f"{array.path} has {there} of {of} chunks"


def _chunks(array: Any) -> int:
    sizes = getattr(array, "shards", None) or array.chunks
    return prod(-(-length // size) for length, size in zip(array.shape, sizes, strict=True))


def _stored(folder: str | Path, array: Any) -> int:
    files = (Path(folder) / array.path).rglob("*")
    return sum(file.is_file() and file.name[0].isdigit() for file in files)
