"""Storage of a slice of a corpus: a zarr (version 3) group; a sub-slice is one range of bytes.

``records`` is ``uint8 [num_subslices, longest]``, with one sub-slice per row
(:mod:`~stofm_geo.data.corpus.codec`), padded with zeros. A row is one inner chunk of a *shard*,
compressed separately and found by the index of the shard. So a sub-slice is one contiguous read,
while a slice of a thousand sub-slices is few files. With one array per tensor, a sub-slice would
need ten reads, of ragged arrays, for which zarr has no type. ``lengths`` ``[num_subslices]`` are
the lengths of the records, ``common`` is the :class:`SliceHeader`, and ``genes`` are the gene
names, joined by line breaks; both are ``uint8`` in one chunk. All other data of the slice are
attributes of the group.

Compressed data carry a checksum that is verified on reading. All files except those of ``records``
are small, and are hashed together when a slice is opened (:func:`head_of`), since metadata have no
checksum, and zarr reads a missing file as zeros.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from stofm_geo.data.corpus.codec import SliceHeader
from stofm_geo.data.stores import check_zarr

_SHARD = 64 * 2**20  # bytes before compression, held in memory while writing
_CODEC = ZstdCodec(level=3, checksum=True)


def write_slice(
    folder: Path,
    records: Iterable[bytes],
    common: bytes,
    genes: Iterable[str],
    attributes: dict[str, Any],
) -> None:
    """Write a slice to a new group, with one shard in memory at a time.

    Args:
        folder: Folder of the group, which must not exist.
        records: Records of the sub-slices.
        common: Bytes of the :class:`SliceHeader`.
        genes: Names of the genes of the slice.
        attributes: Attributes of the group, as for JSON.
    """
    group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    with tempfile.TemporaryFile(dir=folder.parent) as spill:  # until the longest record is known
        lengths = [spill.write(record) for record in records]
        spill.seek(0)
        longest = max(lengths)
        rows = min(max(_SHARD // longest, 1), len(lengths))
        array = group.create_array(
            "records",
            shape=(len(lengths), longest),
            chunks=(1, longest),
            shards=(rows, longest),
            dtype="uint8",
            compressors=_CODEC,
        )
        for start in range(0, len(lengths), rows):
            block = np.zeros((len(lengths[start : start + rows]), longest), dtype=np.uint8)
            for row, length in zip(block, lengths[start : start + rows], strict=True):
                row[:length] = np.frombuffer(spill.read(length), dtype=np.uint8)
            array[start : start + rows] = block
    _write(group, "lengths", np.array(lengths, dtype=np.int64))
    _write(group, "common", np.frombuffer(common, dtype=np.uint8))
    _write(group, "genes", np.frombuffer("\n".join(genes).encode(), dtype=np.uint8))


def _write(group: zarr.Group, name: str, values: np.ndarray) -> None:
    shape = values.shape
    array = group.create_array(
        name, shape=shape, chunks=shape, dtype=values.dtype, compressors=_CODEC
    )
    array[:] = values


class SliceStore:
    """A slice of a corpus, opened for reading.

    Args:
        folder: Folder written by :func:`write_slice`.
        head: Expected value of :func:`head_of`; ``None``: not checked.

    Attributes:
        common: Header that the sub-slices share.

    Raises:
        ValueError: The files were changed.
    """

    def __init__(self, folder: Path, head: str | None = None) -> None:
        check_zarr(folder)
        if head is not None and head_of(folder) != head:
            raise ValueError("its SHA-256 differs from that of the build")
        group: Any = zarr.open_group(folder, mode="r")  # members may be groups or arrays
        self._records = group["records"]
        self._lengths = group["lengths"][:]
        self._genes = group["genes"]
        self.common = SliceHeader.from_bytes(group["common"][:].tobytes())

    def genes(self) -> list[str]:
        """Return the names of the genes, ``[G]``, which are not kept: they take much memory."""
        return _names(self._genes)

    def record(self, index: int) -> bytes:
        """Return the record of a sub-slice."""
        return self._records[index, : self._lengths[index]].tobytes()


def read_genes(folder: Path) -> list[str]:
    """Return the gene names of a slice."""
    check_zarr(folder)
    return _names(zarr.open_array(folder, path="genes", mode="r"))


def _names(stored: Any) -> list[str]:
    return stored[:].tobytes().decode().split("\n")


def checksum(folder: Path) -> tuple[str, int]:
    """Return the SHA-256 of the names and contents of a folder's files, and their total size."""
    return _checksum(folder, [file for file in folder.rglob("*") if file.is_file()])


def head_of(folder: Path) -> str:
    """Return the SHA-256, as :func:`checksum`, of all files except the chunks of the records."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    chunks = folder / "records" / "c"
    return _checksum(folder, [file for file in files if not file.is_relative_to(chunks)])[0]


def _checksum(folder: Path, files: list[Path]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        size += file.stat().st_size
    return digest.hexdigest(), size
