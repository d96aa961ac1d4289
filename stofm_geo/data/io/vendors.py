"""Output folders of instruments, read by spatialdata-io: counts and positions, without images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import h5py
from anndata import AnnData

from stofm_geo._keys import Keys
from stofm_geo._validation import error_context
from stofm_geo.data.io.formats import SLIDE_SEQ, Location, Vendor, choose_table
from stofm_geo.data.io.h5ad import read_slice_file
from stofm_geo.data.io.spatialdata import place_cells, quiet, require, wants_elements
from stofm_geo.data.stores import (
    ElsewhereError,
    check_folder_links,
    check_hdf5,
    check_zarr_zip,
    unreadable,
)

if TYPE_CHECKING:
    from pathlib import Path

# What tables and positions do not need is not read: images take most of the time.
_LEAVE_OUT = {
    "Visium HD": ("load_segmentations_only", "load_nucleus_segmentations", "bins_as_squares"),
    "Xenium": (
        *("cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels"),
        *("transcripts", "morphology_mip", "morphology_focus", "aligned_images"),
    ),
    "MERSCOPE": ("transcripts", "cells_boundaries", "mosaic_images"),
    "CosMx": ("transcripts",),
    "Stereo-seq": ("read_square_bin",),
}


def read_vendor(
    where: Location,
    *,
    spatial_key: str | None = Keys.SPATIAL,
    coordinate_system: str | None = None,
) -> AnnData:
    """Read a table of a vendor's folder.

    Args:
        where: The folder, its vendor, and the table if there are several.
        spatial_key: See :func:`~stofm_geo.read`.
        coordinate_system: See :func:`~stofm_geo.read`.

    Raises:
        ImportError: spatialdata-io is not installed.
        KeyError: There is no such table or coordinate system.
        ValueError: It cannot be read, or is not safe to read; or it has several tables, and none
            is named.
    """
    assert where.vendor is not None
    _check_folder(where.path)
    if where.vendor.reader is None:
        adata = _slide_seq(where.path)
    else:
        adata = _by_spatialdata_io(where, where.vendor, spatial_key, coordinate_system)
    adata.uns.setdefault(Keys.TECHNOLOGY, where.vendor.name)
    return adata


def _by_spatialdata_io(
    where: Location, vendor: Vendor, spatial_key: str | None, coordinate_system: str | None
) -> AnnData:
    path = where.path
    spatialdata_io = require("spatialdata_io", f"{path}: reading a folder of {vendor.name}")
    with quiet():
        try:
            read = getattr(spatialdata_io, str(vendor.reader))(path, **_options(vendor, path))
        except Exception as error:
            raise unreadable(path, error, f" as a folder of {vendor.name}") from error
    adata = read.tables[choose_table(sorted(read.tables), where.table, str(path))]
    if vendor.name == "CosMx":
        _join_fields(adata)
    if wants_elements(adata.obsm, spatial_key, coordinate_system):

        def elements(names: set[str]) -> Mapping[str, Any]:
            return {name: read[name] for name in names if name in read}

        with error_context(str(path)):
            place_cells(adata, elements, coordinate_system)
    return adata


def _slide_seq(path: Path) -> AnnData:
    """Read the AnnData that Curio Seeker writes; it has all that is needed."""
    files = sorted(path.glob(SLIDE_SEQ))
    if len(files) > 1:
        raise ValueError(f"{path}: has {len(files)} files {SLIDE_SEQ}; name one of them")
    return read_slice_file(files[0])


def _options(vendor: Vendor, path: Path) -> dict[str, Any]:
    options: dict[str, Any] = dict.fromkeys(_LEAVE_OUT.get(vendor.name, ()), False)
    if vendor.name == "Visium":
        options["dataset_id"] = path.resolve().name
    return options


def _join_fields(adata: AnnData) -> None:
    """Make one slice of the fields of view: they are one tissue, and positions of all are there."""
    adata.obsm[Keys.SPATIAL] = adata.obsm["global"]
    del adata.uns["spatialdata_attrs"]


def _check_folder(folder: Path) -> None:
    """Check that the files are in the folder, and safe to read."""
    check_folder_links(folder)
    for file in sorted(folder.rglob("*")):
        if file.name.lower().endswith(".zarr.zip"):
            check_zarr_zip(file)
        elif file.is_file() and h5py.is_hdf5(file):
            try:
                with h5py.File(file) as opened:
                    check_hdf5(opened)
            except ElsewhereError:
                raise
            except Exception as error:
                raise unreadable(file, error) from error
