"""Files that are written whole or not at all, and JSON that is read."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stofm_geo._checks import examples

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Say what could not be written where the disk is full; systems do not tell."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        full = OSError(f"{path}: cannot be written, the disk is full; make room, and try again")
        full.errno = error.errno  # for what this is a part of, and is known by
        raise full from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file or folder name beside ``path``; it takes that name when all went well."""
    path = Path(path)
    check_writable(path)
    with (
        naming_full_disk(path),
        tempfile.TemporaryDirectory(prefix=".stofm-geo-", dir=path.parent) as folder,
    ):
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path, files: Collection[str]) -> Iterator[Path]:
    """A temporary folder beside ``path``; it takes that place when all went well.

    Args:
        path: A folder that is already there is replaced whole.
        files: Names that may be lost with it.

    Raises:
        FileExistsError: It holds something else, too.
        OSError: It cannot be written.
    """
    path = Path(path)
    check_folder(path, files)
    with (
        naming_full_disk(path),
        tempfile.TemporaryDirectory(prefix=".stofm-geo-", dir=path.parent) as folder,
    ):
        temporary = Path(folder) / path.name
        temporary.mkdir()
        yield temporary
        before = Path(folder) / f"{path.name}.before"
        if path.is_dir():  # a folder takes the place of an empty one alone
            os.replace(path, before)
        try:
            os.replace(temporary, path)
        except OSError:
            if before.is_dir():
                os.replace(before, path)
            raise


def check_folder(path: str | Path, files: Collection[str], *, make: bool = False) -> None:
    """Whether :func:`atomic_folder` can write ``path``.

    Raises:
        FileExistsError: There is a file, or a folder that holds other things than ``files``.
        OSError: It cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        other = sorted(file.name for file in path.iterdir() if file.name not in files)
        if other:
            raise FileExistsError(
                f"{path}: holds {examples(other)}, which would be lost; name a new folder"
            )
    elif path.exists():
        raise FileExistsError(f"{path}: is a file; name a folder")
    check_writable(path / "x" if path.is_dir() else path, make=make)


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


def targets(slices: list[Path], output: Path) -> list[Path]:
    """The file to write for each slice file; fails now rather than after the work.

    Args:
        slices: Files that are read.
        output: A file for one of them; a folder for several.

    Raises:
        OSError: It cannot be written.
        ValueError: It does not fit the number of files, or is one of them.
    """
    if len(slices) == 1 and not output.is_dir():
        files = [output]
        if output.suffix != ".h5ad":
            raise ValueError(f"{output}: the output of one file must end in .h5ad or be a folder")
    else:
        if output.suffix == ".h5ad":
            raise ValueError(
                f"{output}: {len(slices)} files cannot be written into one; name a folder"
            )
        files = [output / path.name for path in slices]
        if len(set(files)) < len(files):
            raise ValueError(f"two of the {len(slices)} files have the same name; rename one")
    for source, target in zip(slices, files, strict=True):
        if target.resolve() == source.resolve():
            raise ValueError(f"{target}: is the input too; name another output")
        check_writable(target, make=len(slices) > 1)
    return files


def write_between(file: Path, name: str, text: str) -> None:
    """Replace what is between ``<!-- name -->`` and ``<!-- /name -->`` in a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lacks them.
    """
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: is no file; make it, with {' and '.join(marks)} in it")
    before, start, rest = file.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{file} lacks {' and '.join(marks)}, between which the tables go")
    with atomic_path(file) as temporary:
        temporary.write_text(f"{before}{start}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def read_json(file: Path) -> Any:
    """What a file holds.

    Raises:
        ValueError: It cannot be read as JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of the decoders, too
        raise ValueError(f"{file}: cannot be read as JSON ({error})") from error
