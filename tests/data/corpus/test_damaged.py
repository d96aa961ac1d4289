"""Damaged corpora: refused as they are read, not only by ``corpus verify``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stofm_geo.data.corpus import CorpusDataset, read_index, read_manifest


@pytest.fixture
def copy(corpus, tmp_path) -> Path:
    shutil.copytree(corpus, tmp_path / "c")
    return tmp_path / "c"


def first(folder: Path) -> Path:
    """Of its slices."""
    return folder / "slices" / read_index(folder)["slices"][0]["folder"]


def change_index(folder: Path, change: Callable[[dict], object], hashed: bool = False) -> None:
    file = folder / "corpus.json"
    index = json.loads(file.read_text())
    change(index)
    if not hashed:
        del index["index_sha256"]
    file.write_text(json.dumps(index))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_every_flipped_byte_of_records_is_told(copy) -> None:
    shard = next(file for file in (first(copy) / "records" / "c").rglob("*/0"))
    whole = shard.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 40, 1)):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(OSError, match=f"{first(copy)}: sub-slice .* corpus verify"):
            data = CorpusDataset(copy)
            for i in range(read_pieces(copy)):
                data[i]


def read_pieces(folder: Path) -> int:
    return len(read_index(folder)["slices"][0]["nodes"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "common" / "c" / "0"),
        lambda folder: (folder / "genes" / "c" / "0").unlink(),  # zeros, for zarr
        lambda folder: flip(folder / "records" / "zarr.json"),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_what_pieces_share_is_checked(copy, damage) -> None:
    data = CorpusDataset(copy)
    damage(first(copy))
    message = f"{first(copy)}: cannot be opened .*; run stofm-geo corpus verify"
    with pytest.raises(OSError, match=message):
        data[0]
    with pytest.raises(OSError, match=message):
        data.components()


def test_a_changed_index_is_told(copy) -> None:
    change_index(copy, lambda index: index["genes"].reverse(), hashed=True)
    with pytest.raises(ValueError, match=r"corpus\.json: is not what was written"):
        CorpusDataset(copy)


def test_corpora_without_checksums_are_read(corpus, copy) -> None:
    change_index(copy, lambda index: [one.pop("head_sha256") for one in index["slices"]])
    assert CorpusDataset(copy)[0].x.equal(CorpusDataset(corpus)[0].x)


def test_a_manifest_of_files_that_are_gone_is_named(tmp_path) -> None:
    (tmp_path / "m.csv").write_text("path\ngone.h5ad\n")
    with pytest.raises(FileNotFoundError, match=r"m\.csv, line 2: .*gone\.h5ad: no such file"):
        read_manifest(tmp_path / "m.csv")
