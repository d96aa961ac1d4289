"""Names for weights and for settings that change when they do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stofm_geo._checks import examples


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def with_hash(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return what goes into a JSON file, with the SHA-256 of all of it under ``key``."""
    return {**values, key: _hash_of(values, key)}


def check_hash(values: Mapping[str, Any], key: str, known: Collection[str], file: Path) -> None:
    """Check that a JSON file holds what :func:`with_hash` was given.

    A file without a hash passes: it was written by hand, or before there was one. So a name that
    is not known is refused: it may be what has become of ``key``.

    Args:
        values: Its contents.
        key: Name of the hash.
        known: All other names that there may be.
        file: What messages call it.

    Raises:
        ValueError: It holds something else.
    """
    if strange := sorted(set(values) - {key, *known}):
        raise ValueError(f"{file}: has {examples(strange)}, which is not known; remove it")
    if key in values and values[key] != _hash_of(values, key):
        raise ValueError(
            f"{file}: is not what was written; take it from a copy, or remove {key!r} from it if "
            "you have changed it yourself"
        )


def _hash_of(values: Mapping[str, Any], key: str) -> str:
    """SHA-256 of all but ``key``; the same after it was written and read."""
    rest = {name: value for name, value in values.items() if name != key}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
