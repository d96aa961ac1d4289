"""Reading and writing slices: checked on the way in, all or nothing on the way out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
from anndata import AnnData


def read_slice_file(path: str | Path) -> AnnData:
    """Read an ``.h5ad`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a readable ``.h5ad`` file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name an .h5ad file")
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata raise a dozen kinds for one cause
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: cannot be read as .h5ad ({reason}); is it another format, or cut short?"
        ) from error


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write an ``.h5ad`` file, whole or not at all.

    Raises:
        OSError: The folder is missing or cannot be written to, or the disk is full.
    """
    with atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file or folder name beside ``path``; it takes that name when all went well."""
    path = Path(path)
    check_writable(path)
    with tempfile.TemporaryDirectory(prefix=".stofm-geo-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def check_writable(path: str | Path, *, make: bool = False) -> None:
    """Whether a file can be made at ``path``; found out by making one beside it.

    Args:
        path: The file.
        make: Its folder need not be there yet, if only it can be made.

    Raises:
        OSError: It cannot, and why.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    folder = path.parent
    while make and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}: {folder})") from error
