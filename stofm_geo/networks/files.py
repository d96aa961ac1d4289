"""Models as files: ``config.json`` and ``model.safetensors``; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from stofm_geo._files import read_json
from stofm_geo._hash import weights_hash
from stofm_geo._version import __version__
from stofm_geo._weights import read_safetensors

FILES = CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LIBRARY = "stofm_geo"
_HASH, _OWN_HASH = "weights_sha256", "config_sha256"
_M = TypeVar("_M")


def write(config: dict[str, Any], stored: dict[str, Tensor], folder: Path) -> None:
    """Write both files into an existing folder, with the library and its version."""
    config = {
        "library": _LIBRARY,
        "version": __version__,
        _HASH: weights_hash(stored),
        **config,
    }
    config[_OWN_HASH] = _hash_of(config)
    # One entry: safetensors writes several in any order, and the same weights are the same bytes.
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read(
    config_file: Path, weights_file: Path, make: Callable[[dict[str, Any], dict[str, Tensor]], _M]
) -> _M:
    """Read both files and return ``make(config, tensors)``.

    Raises:
        ValueError: They are not of this library, damaged, or do not fit each other; an error of
            ``make`` becomes the reason.
    """
    config = _read_config(config_file)
    stored = read_safetensors(weights_file)
    # Folders that were written before there was a hash have none.
    if config.get(_HASH, told := weights_hash(stored)) != told:
        raise ValueError(
            f"{config_file.parent}: {WEIGHTS} are not the weights that {CONFIG} was written with; "
            "take both files of one model"
        )
    try:
        return make(config, stored)
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise ValueError(
            f"{config_file.parent}: {CONFIG} and {WEIGHTS} do not make a model ({reason})"
        ) from error


def _read_config(file: Path) -> dict[str, Any]:
    config = read_json(file)
    if not isinstance(config, dict) or config.get("library") != _LIBRARY:
        raise ValueError(
            f"{file}: is not the configuration of a stofm_geo model; "
            "name a folder that save_pretrained has written"
        )
    # Folders that were written before there was one have none.
    if _OWN_HASH in config and config[_OWN_HASH] != _hash_of(config):
        raise ValueError(
            f"{file}: is not what was written; take it from a copy, or remove {_OWN_HASH!r} "
            "from it if you have changed it yourself"
        )
    return config


def _hash_of(config: dict[str, Any]) -> str:
    """Return the SHA-256 of all other entries; it survives writing and reading."""
    rest = {name: value for name, value in config.items() if name != _OWN_HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
