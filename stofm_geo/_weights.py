"""Weights from files: numbers that can be, of sizes that were told, before anything is built.

A configuration of a few bytes can ask for a network of any size. What is stored is as large as its
file; so sizes are compared with it on PyTorch's ``meta`` device, which takes no memory.
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
    """The tensors of a file, all numbers finite.

    Raises:
        ValueError: It cannot be read, or holds other numbers.
    """
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file}: is no file")
    try:
        stored = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: cannot be read as safetensors ({error})") from error
    check_finite(stored, file)
    return stored


def read_torch(file: Path) -> dict[str, Tensor]:
    """A state dict of ``torch.save``, unpickled with tensors alone admitted; numbers are finite.

    Raises:
        ValueError: It cannot be read, is no state dict, or holds more than tensors, or numbers that
            are not finite.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file}: is no file")
    _check_archive(file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise a dozen kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{file}: cannot be read as weights alone ({reason[:200]})") from error
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in stored.items()
    ):
        raise ValueError(f"{file}: is no state dict of tensors")
    for name, tensor in stored.items():
        # One number can stand for any number of them.
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or (tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size())
        ):
            raise ValueError(f"{file}: {name} is not stored in full")
    check_finite(stored, file)
    return dict(stored)


def _check_archive(file: Path) -> None:
    """Compare the checksums of a zip archive, as ``torch.save`` writes; PyTorch leaves them.

    Raises:
        ValueError: One differs, or the archive cannot be read.
    """
    if not zipfile.is_zipfile(file):
        return  # of PyTorch before 1.6, without checksums; or none of its files
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds
        raise ValueError(f"{file}: cannot be read as weights alone ({error})") from error
    if damaged is not None:
        raise ValueError(
            f"{file}: is damaged, the checksum of {damaged} in it differs; take it from a copy"
        )


def check_finite(tensors: Mapping[str, Tensor], file: str | Path) -> None:
    """Whether all numbers are finite.

    Raises:
        ValueError: Some are not; the message names the tensors.
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
    """Whether there are as many layers as a setting says.

    Args:
        setting: Its name.
        count: What it says.
        names: Of the tensors.
        pattern: Of a layer's tensors; its group is the layer's number.

    Raises:
        ValueError: There are more, or fewer.
    """
    found = {match[1] for name in names if (match := re.match(pattern, name))}
    if len(found) != count:
        raise ValueError(f"{setting} is {count}, but there are weights of {len(found)} layers")


def check_shapes(wanted: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Whether tensors are those of a network, which may be on ``meta``.

    Raises:
        ValueError: Names, shapes or kinds of numbers differ; the first few are told.
    """
    wrong = [f"{name} is missing" for name in wanted if name not in stored]
    wrong += [f"{name} is not known" for name in stored if name not in wanted]
    for name, tensor in stored.items():
        if name not in wanted:
            continue
        if tensor.shape != wanted[name].shape:
            shapes = list(tensor.shape), list(wanted[name].shape)
            wrong.append(f"{name} is {shapes[0]}, and by the configuration {shapes[1]}")
        elif tensor.is_floating_point() != wanted[name].is_floating_point():
            wrong.append(f"{name} holds {tensor.dtype}")
    if wrong:
        raise ValueError("; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else ""))
