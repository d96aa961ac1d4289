"""HDF5 files and zarr folders of strangers: looked through before anything of them is read.

Both formats can point elsewhere. An HDF5 file may link to others, and keep numbers in any file of
this machine; a zarr folder may name codecs that unpickle, which runs what its maker likes, and
hold links. What is read through them would end up in what is written.

And a damaged HDF5 file can make the HDF5 library run for ever, or crash: where it does, is found
before.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py

from stofm_geo._files import read_json

_HEAP = b"GCOL\1\0\0\0"  # how a heap of HDF5 begins, which holds text
_OBJECT = struct.Struct("<H6xQ")  # in a heap: its number and size
_METADATA = (".zarray", ".zgroup", ".zmetadata", "zarr.json")
# All that numcodecs and zarr have, but pickle; an unknown one may be any function.
_CODECS = frozenset(
    "adler32 astype base64 bitround blosc bytes bz2 cast_value categorize crc32 crc32c delta "
    "endian fixedscaleoffset fletcher32 gzip jenkins_lookup3 json json2 lz4 lzma msgpack msgpack2 "
    "packbits pcodec quantize scale_offset sharding_indexed shuffle transpose vlen-array "
    "vlen-bytes vlen-utf8 zfpy zlib zstd".split()
)


class ElsewhereError(ValueError):
    """Data are not where they are said to be, or not data alone."""


def unreadable(path: str | Path, error: Exception, as_what: str = "") -> ValueError:
    """Return what to raise where a library of a format has failed; they raise a dozen kinds."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f"{path}: cannot be read{as_what} ({reason}); is it another format, or cut short?"
    )


def check_hdf5(file: h5py.File) -> None:
    """Check that an HDF5 file is self-contained and safe to read with the HDF5 library.

    Raises:
        ElsewhereError: It links to another file, or keeps numbers in one; the message says where.
        ValueError: It is damaged where the library would run for ever, or crash.
    """
    status = os.stat(file.filename)
    if not _heaps_are_whole(file.filename, status.st_size, status.st_mtime_ns):
        raise ValueError("its texts are damaged")
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # a name of one that was met
            continue
        seen.add(address)
        _check_attributes(group)
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ElsewhereError(
                    f"{file.filename}: {where} is a link to another file, {link.filename}; copy "
                    "it in, by anndata.read_h5ad and write_h5ad, if you trust it"
                )
            if isinstance(link, h5py.SoftLink):
                continue  # to what is met under its own name, or to nothing
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                raise ElsewhereError(
                    f"{file.filename}: {where} keeps its numbers in another file; copy them in"
                )
            else:
                _check_attributes(item)


def _check_attributes(item: h5py.HLObject) -> None:
    """Check that no attribute has variable length: AnnData writes none, and HDF5 may crash."""
    for number in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=number)
        if attribute.get_type().get_class() == h5py.h5t.VLEN:
            name = attribute.name.decode(errors="backslashreplace")
            raise ValueError(f"attribute {name!r} of {item.name} is of no type of AnnData")


@lru_cache
def _heaps_are_whole(path: str, size: int, changed: int) -> bool:
    """Return whether the objects of each heap fill it, which HDF5 2.0 does not check.

    Args:
        path: The file.
        size: Its bytes.
        changed: When it was last written; sources of a corpus are opened for each slice.
    """
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        start = content.find(_HEAP)
        while 0 <= start < size - 16:
            end = start + int.from_bytes(content[start + 8 : start + 16], "little")
            if end <= size and not _is_whole(content, start + 16, end):  # the library compares end
                return False
            start = content.find(_HEAP, start + 16)
    return True


def _is_whole(content: mmap.mmap, at: int, end: int) -> bool:
    while at + _OBJECT.size <= end:
        number, size = _OBJECT.unpack_from(content, at)
        # Object 0 is what is free, its own head included; the others are filled up to 8 bytes.
        length = 16 + (size + 7) // 8 * 8 if number else size
        if not 16 <= length <= end - at:
            return False
        at += length
    return True


def check_zarr(folder: Path) -> None:
    """Check that a zarr folder is self-contained and that reading it runs no foreign code.

    Raises:
        ElsewhereError: A codec is not known as harmless, something links out of the folder or is no
            file, or metadata cannot be read.
    """
    root = Path(os.path.realpath(folder))
    for file in _files(root, root):
        if file.name.lower() in _METADATA:  # some disks tell no case
            _check_codecs(read_json(file), file)


def _check_codecs(metadata: Any, file: Path) -> None:
    for codec in _codecs(metadata, file):
        if codec not in _CODECS:
            raise ElsewhereError(
                f"{file}: names the codec {codec!r}, which might run anything; nothing of "
                "it was run; write the data with another one"
            )


def check_zarr_zip(path: Path) -> None:
    """Check that reading a zipped zarr folder runs no foreign code.

    Raises:
        ElsewhereError: A codec is not known as harmless, or metadata cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rsplit("/", 1)[-1].lower() in _METADATA:
                    _check_codecs(json.loads(archive.read(name)), path / name)
    except ElsewhereError:
        raise
    except Exception as error:  # of zipfile and json, a dozen kinds
        raise ElsewhereError(f"{path}: cannot be read as a zipped zarr folder ({error})") from error


def check_folder_links(folder: Path) -> None:
    """Check that all files of a folder are in it.

    Raises:
        ElsewhereError: Something links out of the folder, or is no file.
    """
    root = Path(os.path.realpath(folder))
    for _ in _files(root, root):
        pass


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise ElsewhereError(f"{path}: links to what is not in {root}; copy it in")
        if entry.is_dir(follow_symlinks=False):
            yield from _files(path, root)
        elif entry.is_symlink() and path.is_dir():
            continue  # met under its own name
        elif not stat.S_ISREG(entry.stat().st_mode):
            raise ElsewhereError(f"{path}: is no file")
        else:
            yield path


def _codecs(metadata: Any, file: Path) -> Iterator[str]:
    """Names of all codecs, however deep: of groups that tell of all their arrays, and of shards."""
    try:
        open_ = [metadata]
        while open_:
            part = open_.pop()
            if isinstance(part, dict):
                for key, value in part.items():
                    if key in ("filters", "codecs", "index_codecs", "compressor"):
                        some = value if isinstance(value, list) else [value]
                        yield from (_name(one) for one in some if one is not None)
                open_ += [value for key, value in part.items() if key != "attributes"]
            elif isinstance(part, list):
                open_ += part
    except TypeError as error:
        raise ElsewhereError(f"{file}: {error}") from error


def _name(codec: Any) -> str:
    name = codec
    if isinstance(codec, dict):
        name = codec.get("id", codec.get("name"))
    if not isinstance(name, str) or (isinstance(codec, dict) and {"id", "name"} <= set(codec)):
        raise TypeError(f"has a codec without one name: {str(codec)[:80]}")
    return name.removeprefix("numcodecs.")
