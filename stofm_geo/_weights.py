"""Reading and checking of weights from files, before a network is built.

A configuration of a few bytes can request a network of any size, but stored weights are as large as
their file. So sizes are compared on PyTorch's ``meta`` device, which uses no memory.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stofm_geo._validation import preview


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: The file cannot be read, or values are not finite.
    """
    if file.exists() and not file.is_file():  # reading a pipe would block
        raise ValueError(f"{file}: is not a file")
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: cannot be read as safetensors ({error})") from error
    check_finite(stored, file)
    return stored


def read_torch(file: Path) -> dict[str, Tensor]:
    """Return a state dict of ``torch.save``; only tensors are unpickled.

    Raises:
        ValueError: The file cannot be read, is no state dict of tensors, or values are not finite.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file}: is not a file")
    _check_archive(file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{file}: cannot be read as weights ({reason[:200]})") from error
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in stored.items()
    ):
        raise ValueError(f"{file}: is not a state dict of tensors")
    for name, tensor in stored.items():
        # A stride of 0 or a sparse layout can claim any size.
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or (tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size())
        ):
            raise ValueError(f"{file}: {name} is not stored in full")
    check_finite(stored, file)
    return dict(stored)


def _check_archive(file: Path) -> None:
    """Check the checksums of a zip archive, as written by ``torch.save``; PyTorch does not.

    Raises:
        ValueError: A checksum differs, or the archive cannot be read.
    """
    if not zipfile.is_zipfile(file):
        return  # PyTorch before 1.6 has no checksums; other files fail later
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises many types
        raise ValueError(f"{file}: cannot be read as weights ({error})") from error
    if damaged is not None:
        raise ValueError(
            f"{file}: is damaged, the checksum of {damaged} in it differs; take it from a copy"
        )


def check_finite(tensors: Mapping[str, Tensor], file: str | Path) -> None:
    """Check that all values are finite.

    Raises:
        ValueError: Values are not finite; the message names the tensors.
    """
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise ValueError(
            f"{file}: {preview(bad)} of {len(tensors)} tensors hold NaN or infinite weights; "
            "training failed, or the file is damaged"
        )


def check_layers(setting: str, count: int, names: Iterable[str], pattern: str) -> None:
    """Check that there are as many layers as a setting requires.

    Args:
        setting: Name of the setting.
        count: Value of the setting.
        names: Names of the tensors.
        pattern: Regular expression of the tensors of a layer; its group is the layer index.

    Raises:
        ValueError: There are more or fewer layers.
    """
    layers = {match[1] for name in names if (match := re.match(pattern, name))}
    if len(layers) != count:
        raise ValueError(f"{setting} is {count}, but there are weights of {len(layers)} layers")


def check_shapes(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Check that tensors match those of a network, which may be on ``meta``.

    Raises:
        ValueError: Names, shapes or dtypes differ; the message gives the first three differences.
    """
    problems = [f"{name} is missing" for name in expected if name not in stored]
    problems += [f"{name} is unknown" for name in stored if name not in expected]
    for name, tensor in stored.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name].shape:
            shapes = list(tensor.shape), list(expected[name].shape)
            problems.append(f"{name} is {shapes[0]}, but {shapes[1]} by the configuration")
        elif tensor.is_floating_point() != expected[name].is_floating_point():
            problems.append(f"{name} holds {tensor.dtype}")
    if problems:
        raise ValueError("; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else ""))
