"""The reader of all formats."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from anndata import AnnData

from stofm_geo._keys import Keys
from stofm_geo._validation import error_context
from stofm_geo.data.io.formats import locate
from stofm_geo.data.io.h5ad import read_slice_file
from stofm_geo.data.io.spatialdata import place_cells, read_elements, wants_elements
from stofm_geo.data.io.vendors import read_vendor
from stofm_geo.data.io.zarr import read_anndata_zarr


def read(
    path: str | Path,
    *,
    table: str | None = None,
    spatial_key: str | None = Keys.SPATIAL,
    coordinate_system: str | None = None,
    backed: bool = False,
) -> AnnData:
    """Read cells from a file or folder of any known format.

    These are ``.h5ad``, zarr folders of AnnData and of SpatialData, and the output folders of
    Visium, Visium HD, Xenium, MERSCOPE, CosMx, Stereo-seq and Slide-seq (Curio). The regions of a
    table of SpatialData become slices: ``uns["spatialdata_attrs"]`` is kept, which
    :func:`~stofm_geo.data.split_slices` uses.

    Args:
        path: The file or folder.
        table: Name of the table, for SpatialData and for vendors that have several; ``None``: the
            only one.
        spatial_key: Key in ``obsm`` of the positions. Where a table of SpatialData has none under
            ``"spatial"``, the centroids of the elements that it annotates are taken. ``None``: no
            positions are needed.
        coordinate_system: For SpatialData: take the centroids in this coordinate system, even if
            the table has positions. ``None``: ``"global"``, and only if it has none.
        backed: Leave ``X`` of an ``.h5ad`` file on disk. Other formats are read whole.

    Returns:
        The cells. If positions are those of elements, ``uns["stofm_positions"]`` names them.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ImportError: A package is not installed; the message says which.
        KeyError: There is no such table or coordinate system.
        ValueError: The format is not known, or it cannot be read.

    Examples:
        >>> import tempfile
        >>> from stofm_geo import datasets, read, write
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(datasets.toy_tissue(200, 30, seed=0), f"{folder}/tissue.h5ad")
        ...     print(read(f"{folder}/tissue.h5ad").shape)
        (200, 30)
    """
    found = locate(path, table)
    if coordinate_system is not None and not found.has_elements:
        raise ValueError(
            f"{path}: has no coordinate systems, and {coordinate_system!r} is asked for; that is "
            "for SpatialData alone, leave it out"
        )
    if found.kind == "h5ad":
        return read_slice_file(path, backed=backed)
    if found.kind == "vendor":
        return read_vendor(found, spatial_key=spatial_key, coordinate_system=coordinate_system)
    adata = read_anndata_zarr(found.group)
    if found.kind == "spatialdata" and wants_elements(adata.obsm, spatial_key, coordinate_system):
        with error_context(str(found.path)):
            place_cells(adata, partial(read_elements, found.path), coordinate_system)
    return adata
