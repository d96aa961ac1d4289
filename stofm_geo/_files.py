"""Atomic writes of files and folders, and reading of JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stofm_geo._replace import recover_folder, replace_path, work_folder
from stofm_geo._validation import preview

_FULL = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the quota of the disk is used up; make room",
    errno.EFBIG: "a file would be larger than is allowed; raise the limit",
}
_NUMBER = re.compile(r"\(os error (\d+)\)|\berrno = (\d+)")  # in messages of safetensors and HDF5


class DiskFullError(OSError):
    """The disk is full; the message names the file that could not be written."""


@contextmanager
def explain_full_disk(path: str | Path) -> Iterator[None]:
    """Raise :class:`DiskFullError` with ``path`` where an error within is due to a full disk."""
    try:
        yield
    except DiskFullError:
        raise  # names a file already
    except Exception as error:
        number = full_disk_errno(error)
        if number is None:
            raise
        full = DiskFullError(f"{path}: cannot be written, {_FULL[number]}, and try again")
        full.errno = number
        raise full from error


def full_disk_errno(error: BaseException | None) -> int | None:
    """Return the error number of a full disk if that caused ``error``, else ``None``.

    Libraries report a full disk as text, or as the cause of another error.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (match := _NUMBER.search(str(error))):
            number = int(match[1] or match[2])
        if number in _FULL:
            return number
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces ``path`` at the end unless something fails.

    Raises:
        OSError: ``path`` cannot be written.
    """
    path = Path(os.path.realpath(path))
    check_writable(path)
    with explain_full_disk(path), work_folder(path) as temporary:
        yield temporary
        replace_path(temporary, path)


@contextmanager
def atomic_folder(
    path: str | Path, files: Collection[str], *, keep_others: bool = False
) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path`` at the end unless something fails.

    If the process is killed, either the old folder remains or the new one
    (:mod:`stofm_geo._replace`).

    Args:
        path: Target folder, replaced as a whole.
        files: Names of the files that may be replaced or lost.
        keep_others: Keep all other files; otherwise there must be none.

    Raises:
        FileExistsError: ``path`` is a file, or holds other files.
        OSError: ``path`` cannot be written.
    """
    path = Path(os.path.realpath(path))
    recover_folder(path)
    check_folder(path, None if keep_others else files)
    with explain_full_disk(path), work_folder(path) as temporary:
        temporary.mkdir()
        if path.is_dir():
            copy_contents(path, temporary, files, link=True)
        yield temporary
        replace_path(temporary, path)


def copy_contents(
    folder: Path, target: Path, excluded: Collection[str] = (), *, link: bool = False
) -> None:
    """Copy the contents of a folder into another.

    Args:
        folder: Source folder.
        target: Existing target folder.
        excluded: Names in ``folder`` that are not copied.
        link: Make hard links, or copies if links are not supported.
    """
    copy = _link_file if link else shutil.copy2
    for entry in folder.iterdir():
        if entry.name in excluded:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True, copy_function=copy)
        else:
            copy(entry, target / entry.name, follow_symlinks=False)


def _link_file(source: str | Path, target: str | Path, *, follow_symlinks: bool = False) -> None:
    try:
        os.link(source, target, follow_symlinks=follow_symlinks)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=follow_symlinks)


def check_folder(path: str | Path, files: Collection[str] | None, *, make: bool = False) -> None:
    """Check that :func:`atomic_folder` can write ``path``.

    Args:
        path: The folder.
        files: Names of the files that may be lost; ``None``: any.
        make: Whether missing parents are allowed, if they can be created.

    Raises:
        FileExistsError: ``path`` is a file, or a folder with other files than ``files``.
        OSError: ``path`` cannot be written.
        ValueError: The name is not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        other = sorted(file.name for file in path.iterdir() if file.name not in (files or ()))
        if other and files is not None:
            raise FileExistsError(
                f"{path}: holds {preview(other)}, which would be lost; name a new folder"
            )
        if os.path.ismount(path):
            raise OSError(f"{path}: is a mount point; name a folder in it")
    elif path.exists():
        raise FileExistsError(f"{path}: is a file; name a folder")
    _check_parent(path, make)


def check_writable(path: str | Path, *, make: bool = False) -> None:
    """Check that a file can be written at ``path``, by creating one beside it.

    Args:
        path: The file.
        make: Whether a missing folder is allowed, if it can be created.

    Raises:
        OSError: ``path`` cannot be written.
        ValueError: The name is not UTF-8.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: is neither a file nor a folder; name a file")
    _check_parent(path, make)


def _check_parent(path: Path, make: bool) -> None:
    """Check that something can be created beside ``path`` and renamed to it."""
    check_name(path)
    path = Path(os.path.realpath(path))
    folder = path.parent
    while make and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}: {folder})") from error


def check_name(path: str | Path) -> None:
    """Check that a name is valid UTF-8, as HDF5, JSON and printing require.

    Raises:
        ValueError: The name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise ValueError(f"{shown}: the name is not UTF-8; rename it") from None


def replace_section(file: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file lacks the markers.
    """
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: is not a file; make it, with {' and '.join(marks)} in it")
    before, start, rest = file.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{file} lacks {' and '.join(marks)}, between which the tables go")
    with atomic_path(file) as temporary:
        temporary.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the last change (ns) of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: ``file`` is not a file, or cannot be read as JSON.
    """
    if file.exists() and not file.is_file():  # reading a pipe would block
        raise ValueError(f"{file}: is not a file")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{file}: cannot be read as JSON (it is nested too deep)") from None
    except (OSError, ValueError) as error:  # decoders raise ValueErrors
        raise ValueError(f"{file}: cannot be read as JSON ({error})") from error
