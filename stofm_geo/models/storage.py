"""A model on disk: ``model.safetensors`` and ``config.json``; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from stofm_geo._files import read_json
from stofm_geo._hash import weights_hash
from stofm_geo._version import __version__
from stofm_geo._weights import check_layers, check_shapes, read_safetensors
from stofm_geo.genes import CellFeatures, PanelEncoder
from stofm_geo.genes.features import from_state

if TYPE_CHECKING:
    from stofm_geo.models.stofm import SToFM

FILES = CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LIBRARY = "stofm_geo"
_FEATURES = "features."
_HASH, _OWN_HASH = "weights_sha256", "config_sha256"
_M = TypeVar("_M")


def tensors(model: SToFM) -> dict[str, Tensor]:
    """All arrays of a fitted model by name: the network's and the features'."""
    found = {name: value.contiguous().cpu() for name, value in model.network.state_dict().items()}
    _, arrays = model.features.state()
    return found | {_FEATURES + name: torch.from_numpy(array) for name, array in arrays.items()}


def config_of(model: SToFM) -> dict[str, Any]:
    """What makes a fitted model again, with its :func:`tensors`; JSON."""
    features, _ = model.features.state()
    return {
        "settings": asdict(model.settings),
        "in_channels": model.network.in_channels,
        "features": features,
        "training": model.training_record,
    }


def model_of(config: dict[str, Any], stored: dict[str, Tensor]) -> SToFM:
    """The model that :func:`config_of` and :func:`tensors` tell of.

    Raises:
        KeyError, TypeError, RuntimeError, ValueError: They do not fit each other.
    """
    from stofm_geo.models.network import Network
    from stofm_geo.models.stofm import SToFM

    if "annotation" in config:
        raise ValueError("it predicts labels; load it with stofm_geo.tasks.Annotator.load")
    model = SToFM(**config["settings"])
    model.training_record = _checked_record(config["training"])
    prefix = len(_FEATURES)
    arrays = {k[prefix:]: v.numpy() for k, v in stored.items() if k.startswith(_FEATURES)}
    weights = {name: value for name, value in stored.items() if not name.startswith(_FEATURES)}
    layers = model.settings.num_layers
    check_layers("num_layers", layers, weights, r"transformer\.blocks\.(\d+)\.")

    def make() -> tuple[CellFeatures, Network]:
        features = from_state(config["features"], arrays)
        if features.out_channels != config["in_channels"]:
            raise ValueError(
                f"features have {features.out_channels} columns, the network takes "
                f"{config['in_channels']!r}"
            )
        encoder = features if isinstance(features, PanelEncoder) else None
        return features, Network(features.out_channels, model.settings, encoder)

    with torch.device("meta"):
        check_shapes(make()[1].state_dict(), weights)
    model.features, model.network = make()
    model.network.load_state_dict(weights)
    return model.eval()


def _checked_record(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or type(record.get("seed")) is not int:
        raise ValueError("training must tell of the seed")
    return record


def save(model: SToFM, folder: Path) -> None:
    """Write a fitted model into an existing folder."""
    write(config_of(model), tensors(model), folder)


def write(config: dict[str, Any], stored: dict[str, Tensor], folder: Path) -> None:
    """Write both files into an existing folder, this library and its version named in one."""
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


def load(config_file: Path, weights_file: Path) -> SToFM:
    """Read a model.

    Raises:
        ValueError: The files are no model of this library, damaged, or do not fit each other.
    """
    return read(config_file, weights_file, model_of)


def read(
    config_file: Path, weights_file: Path, make: Callable[[dict[str, Any], dict[str, Tensor]], _M]
) -> _M:
    """What ``make`` makes of both files.

    Raises:
        ValueError: As :func:`load`; an error of ``make`` is what they do not fit by.
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
    """SHA-256 of all but itself; the same after it was written and read."""
    rest = {name: value for name, value in config.items() if name != _OWN_HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
