"""Reading and writing of ``config.json`` and ``model.safetensors``, without pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from stofm_geo._files import read_json
from stofm_geo._hash import check_hash, weights_hash, with_hash
from stofm_geo._version import __version__
from stofm_geo._weights import read_safetensors

FILES = CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LIBRARY = "stofm_geo"
_HASH, _OWN_HASH = "weights_sha256", "config_sha256"
_OF_MODEL = ("settings", "in_channels", "features", "training")
_OF_ANNOTATOR = ("model", "annotation")
_KNOWN = ("library", "version", _HASH, *_OF_MODEL, *_OF_ANNOTATOR)
_M = TypeVar("_M")


def write(config: dict[str, Any], stored: dict[str, Tensor], folder: Path) -> None:
    """Write both files into an existing folder, with the library and its version."""
    config = {
        "library": _LIBRARY,
        "version": __version__,
        _HASH: weights_hash(stored),
        **config,
    }
    # A single entry, since safetensors writes several in any order, which would change the bytes.
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(with_hash(config, _OWN_HASH), indent=2) + "\n")


def read(
    config_file: Path, weights_file: Path, make: Callable[[dict[str, Any], dict[str, Tensor]], _M]
) -> _M:
    """Read both files and return ``make(config, tensors)``.

    Raises:
        ValueError: The files are not of this library, are damaged, or do not match; an error of
            ``make`` becomes the reason.
    """
    config = _read_config(config_file)
    stored = read_safetensors(weights_file)
    # Folders of older versions have no hash.
    if config.get(_HASH, actual_hash := weights_hash(stored)) != actual_hash:
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
    check_hash(config, _OWN_HASH, _KNOWN, file)
    return config
