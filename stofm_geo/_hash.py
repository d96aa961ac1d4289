"""Hashes of weights and of settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stofm_geo._validation import preview


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def with_hash(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the content of a JSON file with its SHA-256 under ``key``."""
    return {**values, key: _hash_of(values, key)}


def check_hash(values: Mapping[str, Any], key: str, known: Collection[str], file: Path) -> None:
    """Check that a JSON file holds what :func:`with_hash` returned.

    A file without a hash passes, since it was written by hand or by an older version. Unknown names
    are rejected, since one may be a damaged ``key``.

    Args:
        values: Content of the file.
        key: Name of the hash.
        known: All other valid names.
        file: File named in messages.

    Raises:
        ValueError: The content differs, or has unknown names.
    """
    if unknown := sorted(set(values) - {key, *known}):
        raise ValueError(f"{file}: has unknown {preview(unknown)}; remove it")
    if key in values and values[key] != _hash_of(values, key):
        raise ValueError(
            f"{file}: is not what was written; take it from a copy, or remove {key!r} from it if "
            "you have changed it yourself"
        )


def _hash_of(values: Mapping[str, Any], key: str) -> str:
    """Return the SHA-256 of all but ``key``; invariant to writing and reading."""
    rest = {name: value for name, value in values.items() if name != key}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
