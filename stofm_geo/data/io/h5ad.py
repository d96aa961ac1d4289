"""``.h5ad`` files: checked before they are read, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
from anndata import AnnData

from stofm_geo._files import atomic_path, check_name
from stofm_geo._storable import make_storable
from stofm_geo.data.stores import ElsewhereError, check_hdf5, unreadable


def read_slice_file(path: str | Path, *, backed: bool = False) -> AnnData:
    """Read an ``.h5ad`` file.

    Args:
        path: The file.
        backed: Leave ``X`` on disk, and read it when it is needed.

    Returns:
        The cells.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a readable ``.h5ad`` file, or refers to other files.

    Examples:
        >>> import tempfile
        >>> from stofm_geo import datasets
        >>> from stofm_geo.data import read_slice_file, write_h5ad
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_h5ad(datasets.toy_tissue(200, 30, seed=0), f"{folder}/tissue.h5ad")
        ...     print(read_slice_file(f"{folder}/tissue.h5ad").shape)
        (200, 30)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name an .h5ad file")
    check_name(path)
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path}: is no file; name an .h5ad file")
    try:
        with h5py.File(path) as file:
            check_hdf5(file)
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except ElsewhereError:
        raise
    except Exception as error:
        raise unreadable(path, error, " as .h5ad") from error


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write an ``.h5ad`` file, as a whole: if the process is killed, the previous file remains.

    Args:
        adata: Cells; parts that a file cannot hold are converted in place
            (:func:`~stofm_geo.data.prepare_for_writing`).
        path: The file; it is replaced if it exists.

    Raises:
        OSError: The folder is missing or cannot be written to, or the disk is full.

    Examples:
        >>> import os, tempfile
        >>> from stofm_geo import datasets
        >>> from stofm_geo.data import write_h5ad
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_h5ad(datasets.toy_tissue(200, 30, seed=0), f"{folder}/tissue.h5ad")
        ...     print(os.listdir(folder))
        ['tissue.h5ad']
    """
    make_storable(adata, str(path))
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
