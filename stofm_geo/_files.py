"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
