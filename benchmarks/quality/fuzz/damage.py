"""What can happen to a file: bytes flipped, its end or all of it lost, and values replaced."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
import zarr

_VALUES = (
    *(None, True, False, -1, 0, 1, 3, 10**9, 10**30, 0.5, 1e9, 1e308, -1e-9),
    *(float("nan"), float("inf"), "", "text", "1", "\0", "a/b", [], {}, [1], [[]], {"a": 1}),
)
_ASIDE = ("README.md", ".lock", "failed.csv")  # not read
_JSON = (".json", ".zattrs", ".zarray", ".zgroup", ".zmetadata")


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        told: In words.
        by_hand: Checksums were removed with it.
    """

    told: str
    by_hand: bool = False


def damage(path: Path, draw: random.Random) -> Damage:
    """Change one file of a folder, or the file."""
    if path.suffix == ".zarr" and draw.random() < 0.2:
        store = zarr.open_group(path, mode="r+")
        arrays = [array for _, array in sorted(store.members(max_depth=None)) if _is_array(array)]
        return _in_array(draw.choice(arrays), draw)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    files = sorted(file for file in files if file.stat().st_size and file.name not in _ASIDE)
    file = draw.choice(files)
    name = "" if path.is_file() else f"{file.relative_to(path)}: "
    edit = _edit_of(file)
    kinds = ["flip"] * 3 + ["cut"] + ["gone"] * path.is_dir() + ["value"] * 4 * (edit is not None)
    kind = draw.choice(kinds)
    if kind == "gone":
        file.unlink()
        return Damage(f"{name}gone")
    if kind == "value" and edit is not None:
        found = edit(file, draw)
        by_hand = draw.random() < 0.7 and _without_checksums(path)
        return Damage(f"{name}{found.told}", by_hand)
    content = bytearray(file.read_bytes())
    if kind == "cut":
        size = draw.randrange(len(content))
        del content[size:]
        told = f"cut to {size} bytes"
    else:
        places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 4, 32]))]
        for place in places:
            content[place] ^= 1 << draw.randrange(8)
        told = f"flips at {places[:4]}"
    file.write_bytes(content)
    return Damage(f"{name}{told}")


def _edit_of(file: Path) -> Callable[[Path, random.Random], Damage] | None:
    """What replaces a value in such a file."""
    if file.suffix in _JSON or file.name in _JSON:
        return _in_json
    return {
        ".safetensors": _in_safetensors,
        ".pth": _in_state,
        ".bin": _in_state,
        ".csv": _in_csv,
        ".yaml": _in_yaml,
        ".h5ad": _in_hdf5,
    }.get(file.suffix)


def _without_checksums(path: Path) -> bool:
    """Remove those of ours; whether there are any."""
    found = False
    for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
        if file.suffix != ".json":
            continue
        values = json.loads(file.read_text())
        if _drop(values):
            found = True
            file.write_text(json.dumps(values))
    return found


def _drop(values: Any) -> bool:
    parts = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(parts, list):
        return False
    found = any([_drop(part) for part in parts])
    for key in [key for key in values if str(key).endswith("_sha256")]:
        if isinstance(values, dict):
            del values[key]
            found = True
    return found


def _replace(values: Any, draw: random.Random) -> Damage:
    """A value somewhere in dictionaries and lists, in place."""
    part = values
    while True:
        key = draw.choice(list(part) if isinstance(part, dict) else range(len(part)))
        if isinstance(part[key], dict | list) and part[key] and draw.random() < 0.8:
            part = part[key]
            continue
        if draw.random() < 0.1:
            del part[key]
            return Damage(f"{key!r} removed")
        part[key] = draw.choice(_VALUES)
        return Damage(f"{key!r} is {part[key]!r}")


def _in_json(file: Path, draw: random.Random) -> Damage:
    values = json.loads(file.read_text())
    if not values:
        file.write_text("[]")
        return Damage("a list")
    found = _replace(values, draw)
    file.write_text(json.dumps(values))
    return found


def _in_yaml(file: Path, draw: random.Random) -> Damage:
    values = yaml.safe_load(file.read_text())
    found = _replace(values, draw)
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return found


def _in_csv(file: Path, draw: random.Random) -> Damage:
    rows = list(csv.reader(io.StringIO(file.read_text())))
    row = draw.choice(rows)
    place, value = draw.randrange(len(row)), draw.choice(_VALUES)
    row[place] = value
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return Damage(f"{value!r} in column {place}")


def _in_safetensors(file: Path, draw: random.Random) -> Damage:
    """A type, a shape or a place of the header, or a weight."""
    content = file.read_bytes()
    size = 8 + struct.unpack("<Q", content[:8])[0]
    if draw.random() < 0.5:
        header = json.loads(content[8:size])
        found = _replace(header, draw)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[size:])
        return found
    place = draw.randrange(size, len(content) - 3) // 4 * 4
    number = draw.choice([np.nan, np.inf, -1e30, 0.0, 1e9])
    file.write_bytes(content[:place] + struct.pack("<f", number) + content[place + 4 :])
    return Damage(f"a weight at {place} is {number}")


def _in_state(file: Path, draw: random.Random) -> Damage:
    state = torch.load(file, weights_only=True)
    name = draw.choice(sorted(state))
    tensor = state[name]
    made: dict[str, Callable[[], Any]] = {
        "gone": lambda: None,
        "whole": tensor.long,
        "double": tensor.double,
        "half": tensor.half,
        "nan": lambda: tensor * np.nan,
        "larger": lambda: tensor * 1e30,
        "none": lambda: tensor[:0],
        "one more": lambda: tensor[None],
        "huge": lambda: torch.zeros(1).expand(10**6, 10**6),
        "text": lambda: "text",
    }
    kind = draw.choice(sorted(made))
    state[name] = made[kind]()
    if kind == "gone":
        del state[name]
    torch.save(state, file)
    return Damage(f"{name}: {kind}")


def _in_hdf5(file: Path, draw: random.Random) -> Damage:
    """A value, an attribute, or an array or group that is gone."""
    with h5py.File(file, "r+") as root:
        names: list[str] = []
        root.visit(names.append)
        item = root[draw.choice(sorted(names))]
        if _is_array(item) and draw.random() < 0.7:
            return _in_array(item, draw)
        if item.attrs and draw.random() < 0.7:
            key = draw.choice(sorted(item.attrs))
            value = draw.choice(["", "text", 0, -1, 10**9, np.nan, np.array([-1, 10**6])])
            item.attrs[key] = value
            return Damage(f"attribute {key!r} of {item.name} is {value!r}")
        name = item.name
        del root[name]
        return Damage(f"{name} is gone")


def _is_array(item: Any) -> bool:
    return hasattr(item, "shape")


def _in_array(array: Any, draw: random.Random) -> Damage:
    """One value of an array of HDF5 or zarr."""
    kind, value = array.dtype.kind, None
    if kind in "iu":
        limits = np.iinfo(array.dtype)
        value = draw.choice([limits.min, limits.max, 0, 1, 10])
    elif kind == "f":
        value = draw.choice([np.nan, np.inf, -np.inf, -1.0, 0.0, 0.5, float(np.finfo("f4").max)])
    elif kind == "b":
        value = True
    else:
        value = draw.choice(["", "text", "nan", "a/b", "x" * 1000])
    if array.shape and not all(array.shape):
        return Damage(f"{array.name} is empty as it was")
    place = tuple(draw.randrange(size) for size in array.shape)
    array[place or ()] = value
    return Damage(f"{array.name}{list(place)} is {value!r}"[:120])
