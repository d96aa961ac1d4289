"""HDF5 files and zarr folders of strangers: looked through before anything of them is read.

Both formats can point elsewhere. An HDF5 file may link to others, and keep numbers in any file of
this machine; a zarr folder may name codecs that unpickle, which runs what its maker likes, and
hold links. What is read through them would end up in what is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from stofm_geo._files import read_json

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


def check_hdf5(file: h5py.File) -> None:
    """Whether all of an HDF5 file is in it.

    Raises:
        ElsewhereError: It links to another file, or keeps numbers in one; the message says where.
    """
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # a name of one that was met
            continue
        seen.add(address)
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


def check_zarr(folder: Path) -> None:
    """Whether all of a zarr folder is in it, and reading it runs nothing of its own.

    Raises:
        ElsewhereError: A codec is not known as harmless, something links out of the folder or is no
            file, or metadata cannot be read.
    """
    root = Path(os.path.realpath(folder))
    for file in _files(root, root):
        if file.name.lower() in _METADATA:  # some disks tell no case
            for codec in _codecs(read_json(file), file):
                if codec not in _CODECS:
                    raise ElsewhereError(
                        f"{file}: names the codec {codec!r}, which might run anything; nothing of "
                        "it was run; write the data with another one"
                    )


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
