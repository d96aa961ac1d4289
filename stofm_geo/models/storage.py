"""A model on disk: ``model.safetensors`` and ``config.json``; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stofm_geo._files import read_json
from stofm_geo._version import __version__
from stofm_geo.genes import PanelEncoder
from stofm_geo.genes.features import from_state

if TYPE_CHECKING:
    from stofm_geo.models.stofm import SToFM

FILES = CONFIG, WEIGHTS = "config.json", "model.safetensors"
_LIBRARY = "stofm_geo"
_FEATURES = "features."
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
    model.training_record = config["training"]
    prefix = len(_FEATURES)
    arrays = {k[prefix:]: v.numpy() for k, v in stored.items() if k.startswith(_FEATURES)}
    model.features = from_state(config["features"], arrays)
    encoder = model.features if isinstance(model.features, PanelEncoder) else None
    model.network = Network(config["in_channels"], model.settings, encoder)
    model.network.load_state_dict(
        {name: value for name, value in stored.items() if not name.startswith(_FEATURES)}
    )
    return model.eval()


def save(model: SToFM, folder: Path) -> None:
    """Write a fitted model into an existing folder."""
    write(config_of(model), tensors(model), folder)


def write(config: dict[str, Any], stored: dict[str, Tensor], folder: Path) -> None:
    """Write both files into an existing folder, this library and its version named in one."""
    config = {"library": _LIBRARY, "version": __version__, **config}
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
    try:
        stored = load_file(weights_file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights_file}: cannot be read as safetensors ({error})") from error
    try:
        return make(config, stored)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
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
    return config
