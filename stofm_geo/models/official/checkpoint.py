"""Published checkpoints: read, checked, and written so that the published code reads them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stofm_geo._files import read_json
from stofm_geo._replace import recover_folder
from stofm_geo._weights import check_layers, read_torch
from stofm_geo.models.official.network import Config, OfficialNetwork

FILES = CONFIG, WEIGHTS, HEADS = "config.json", "se2transformer.pth", "pretraining_heads.pth"
_PREFIXES = re.compile(r"^(module\.|model\.)+")

# Published names, where they are not ours.
_NAMES = {
    "gaussian.scale": "gaussian.linear.weight",
    "gaussian.shift": "gaussian.linear.bias",
    "gaussian.mean": "gaussian.means.weight",
    "gaussian.std": "gaussian.stds.weight",
    "gaussian.hidden.weight": "gaussian.proj.0.weight",
    "gaussian.hidden.bias": "gaussian.proj.0.bias",
    "gaussian.out.weight": "gaussian.proj.2.weight",
    "gaussian.out.bias": "gaussian.proj.2.bias",
}
_TWO_DIMENSIONS = ("gaussian.scale", "gaussian.mean", "gaussian.std")  # there, one here


def published_name(name: str) -> str:
    """Return the published name of a parameter."""
    name = _NAMES.get(name, name)
    name = re.sub(r"^layers\.", "encoder.layers.", name)
    return re.sub(r"\.([qkv]|out)_proj\.", r".self_attn.\1_proj.", name)


def read(folder: str | Path, attention: str = "slice") -> OfficialNetwork:
    """Read the network of a published checkpoint, in evaluation mode.

    Args:
        folder: With ``config.json`` and ``se2transformer.pth``.
        attention: See :class:`OfficialNetwork`.

    Raises:
        FileNotFoundError: The folder or a file is not there.
        ValueError: Files that cannot be read or do not fit each other; all misfits are listed.
    """
    folder = Path(folder)
    recover_folder(folder)
    for file in (folder / CONFIG, folder / WEIGHTS):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; a published checkpoint has {CONFIG} and {WEIGHTS}"
            )
    try:
        config = Config.read(read_json(folder / CONFIG))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    stored = read_state(folder / WEIGHTS)
    if (folder / HEADS).is_file():
        stored |= read_state(folder / HEADS)
    heads = any(name.startswith(("lm_head.", "pair_head.")) for name in stored)
    layers = config.num_hidden_layers
    try:
        check_layers("num_hidden_layers", layers, stored, r"encoder\.layers\.(\d+)\.")
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS}: does not fit {CONFIG}: {error}") from error
    with torch.device("meta"):  # sizes are compared before there is memory of them
        state = fitting(stored, OfficialNetwork(config, attention, heads), folder / WEIGHTS)
    network = OfficialNetwork(config, attention, heads)
    network.load_state_dict(state)
    return network.eval()


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a state dict, without the prefixes of wrappers; only tensors are unpickled.

    Raises:
        ValueError: It is no state dict, or holds more than tensors.
    """
    return {bare(name): tensor for name, tensor in read_torch(file).items()}


def bare(name: str) -> str:
    """Return a published name without the prefixes of wrappers."""
    return _PREFIXES.sub("", name)


def write(network: OfficialNetwork, folder: Path) -> None:
    """Write ``config.json`` and ``se2transformer.pth`` as the published code reads them.

    The published file has no place for the heads of pre-training; where the network has them,
    they go into ``pretraining_heads.pth`` beside it.

    Args:
        network: What is written.
        folder: There, and without these files.
    """
    state = {name: tensor.cpu() for name, tensor in published_state(network).items()}
    heads = {name: state.pop(name) for name in list(state) if "_head." in name}
    for file, part in ((WEIGHTS, state), (HEADS, heads)):
        if part:
            torch.save(part, folder / file)
    config = json.dumps(_published_config(network.config), indent=2)
    (folder / CONFIG).write_text(config + "\n")


def published_state(network: OfficialNetwork) -> dict[str, Tensor]:
    """Return the state dict with published names and shapes."""
    return {
        published_name(name): tensor.reshape(1, -1) if name in _TWO_DIMENSIONS else tensor
        for name, tensor in network.state_dict().items()
    }


def _published_config(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = asdict(config)
    return values | {"hidden_size": config.embedding_dim, "pre_layernorm": False}


def fitting(
    stored: dict[str, Tensor], network: OfficialNetwork, file: str | Path
) -> dict[str, Tensor]:
    """Return the stored tensors by our names; one error lists all that do not fit."""
    wanted = {published_name(name): name for name in network.state_dict()}
    shapes = {name: list(tensor.shape) for name, tensor in published_state(network).items()}
    problems = [f"missing: {name} {shapes[name]}" for name in shapes if name not in stored]
    problems += [f"unknown: {name}" for name in stored if name not in shapes]
    problems += [
        f"{name}: {list(tensor.shape)}, by {CONFIG} {shapes[name]}"
        for name, tensor in stored.items()
        if name in shapes and list(tensor.shape) != shapes[name]
    ]
    problems += [
        f"{name}: holds {tensor.dtype}, and must hold weights"
        for name, tensor in stored.items()
        if name in shapes and not tensor.is_floating_point()
    ]
    if problems:
        raise ValueError(f"{file}: does not fit {CONFIG}:\n  " + "\n  ".join(problems))
    own = network.state_dict()
    return {wanted[name]: tensor.view_as(own[wanted[name]]) for name, tensor in stored.items()}
