"""Saved models that are damaged, forged or mixed up: refused in one line, without their memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import Vocabulary
from stofm_geo.genes.vocabulary import read_pickle
from stofm_geo.models import official
from stofm_geo.networks.files import FILES
from stofm_geo.tasks import Annotator, fine_tune
from tests.helpers import SMALL

DEEP = "[" * 200_000


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder, tissue = tmp_path_factory.mktemp("saved"), toy_tissue(150, 30, 1, seed=0)
    for name, more in (("pca", {}), ("panel", {"encoder": "panel"})):
        model = SToFM(**SMALL, **more).fit(tissue, max_steps=2, progress=False)
        model.save_pretrained(folder / name)
    fine_tune(model, tissue, "region", progress=False, max_steps=2).save(folder / "annotator")
    return folder


def in_config(*keys: str, value: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.pop("config_sha256", None)  # or it would be told by that alone
        part = config
        for key in keys[:-1]:
            part = part[key]
        if value is KeyError:
            del part[keys[-1]]
        else:
            part[keys[-1]] = value
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def in_weights(name: str, change: Callable, hashed: bool = True) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        stored = load_file(folder / "model.safetensors")
        if (new := change(stored.pop(name).clone())) is not None:
            stored[name] = new
        save_file(stored, folder / "model.safetensors")
        if hashed:  # or it would be told by that alone
            in_config("weights_sha256", value=KeyError)(folder)

    return spoil


def nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[0] = torch.nan
    return tensor


def infinite(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[-1] = -torch.inf
    return tensor


LAYER = "transformer.blocks.0.lin_out.weight"
SPOILS = [
    ("pca", in_weights(LAYER, nan), rf"safetensors: {LAYER} of \d+ tensors hold NaN or infinite"),
    ("panel", in_weights("encoder.embedding", infinite), "encoder.embedding .* NaN or infinite"),
    ("pca", in_weights("features.mean", nan), "features.mean .* NaN or infinite"),
    ("pca", in_weights("features.mean", lambda t: t[:-1]), r"axes, mean and scale .*29,"),
    ("pca", in_weights("features.scale", lambda t: t.double()), "scale .* float64, not float32"),
    ("pca", in_weights("features.scale", lambda t: -t), "scales .* must be above zero"),
    ("pca", in_weights("features.axes", lambda t: None), "axes is missing"),
    ("pca", in_weights(LAYER, lambda t: t[:, :-1].contiguous()), rf"{LAYER} is \[16, 15\], but"),
    ("pca", in_weights(LAYER, lambda t: t.long()), rf"{LAYER} holds torch.int64"),
    ("pca", in_weights(LAYER, lambda t: None), rf"{LAYER} is missing"),
    ("pca", in_weights(LAYER, lambda t: t + 1, False), "are not the weights that config.json was"),
    ("pca", in_config("settings", "num_layers", value=10**9), "num_layers is 1000000000, but .* 2"),
    ("pca", in_config("settings", "num_layers", value=1), "num_layers is 1, but there are"),
    ("pca", in_config("settings", "hidden_channels", value=2 * 10**6), r"\[2000000\]"),
    ("pca", in_config("settings", "num_gaussians", value=10**12), "1000000000000"),
    ("pca", in_config("settings", "out_channels", value=10**9), "999999976"),
    ("panel", in_config("features", "hidden_channels", value=10**11), "100000000000"),
    ("panel", in_config("features", "out_channels", value=10**11), "100000000000"),
    ("pca", in_config("in_channels", value=7), "features have 6 columns, the network takes 7"),
    ("pca", in_config("settings", "dropout", value="0.1"), "dropout must be a number; found '0.1'"),
    ("pca", in_config("settings", value=None), "mapping"),
    ("pca", in_config("training", value={}), "training must name the seed"),
    ("pca", in_config("features", "genes", value="abc"), "genes .* must be a list of names"),
    ("panel", in_config("features", "genes", value=[1, 2]), "genes .* must be a list of names"),
    ("panel", in_config("features", "technologies", value=[[]]), "technologies .* a list of names"),
    ("annotator", in_config("annotation", "classes", value=["a", "a"]), "distinct names"),
    (
        "annotator",
        in_config("annotation", "classes", value=["a"]),
        r"but \[1\] by the configuration",
    ),
    ("annotator", in_config("annotation", "classes", value=3), "classes must be a list of names"),
    ("annotator", in_config("annotation", "mlp", value="no"), "mlp must be true or false"),
    ("annotator", in_config("annotation", "task", value=[]), "task"),
    (
        "annotator",
        in_config("annotation", "record", value=None),
        "record must be a dictionary with a method",
    ),
    ("annotator", in_config("annotation", value=[]), "annotation must be a dictionary"),
    ("annotator", in_config("model", value=None), "do not make a model"),
    (
        "annotator",
        in_weights("annotation.temperature", lambda t: -t),
        "temperature must be above 0; found -",
    ),
]


@pytest.mark.parametrize(("kind", "spoil", "message"), SPOILS)
def test_each_is_told(saved, tmp_path, kind: str, spoil: Callable, message: str) -> None:
    shutil.copytree(saved / kind, tmp_path / "m")
    spoil(tmp_path / "m")
    load, start = (Annotator.load if kind == "annotator" else SToFM.from_pretrained), time.time()
    with pytest.raises(ValueError, match=message) as told:
        load(tmp_path / "m")
    assert str(told.value).startswith(str(tmp_path / "m")) and "\n" not in str(told.value)
    assert time.time() - start < 30  # rather than for ever


def test_a_config_beside_another_model_is_told(saved, tmp_path) -> None:
    other = SToFM(**SMALL).fit(toy_tissue(150, 30, 1, seed=0), seed=1, max_steps=2, progress=False)
    other.save_pretrained(tmp_path / "m")
    shutil.copy(saved / "pca" / "model.safetensors", tmp_path / "m")
    with pytest.raises(ValueError, match=r"not the weights that config\.json was"):
        SToFM.from_pretrained(tmp_path / "m")


def test_a_changed_config_is_told(saved, tmp_path) -> None:
    shutil.copytree(saved / "pca", tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(file.read_text().replace('"k": 12', '"k": 13'))
    with pytest.raises(ValueError, match=r"config\.json: is not what was written; .* remove"):
        SToFM.from_pretrained(tmp_path / "m")


def test_folders_without_a_hash_are_read(saved, tmp_path) -> None:
    shutil.copytree(saved / "pca", tmp_path / "m")
    in_config("weights_sha256", value=KeyError)(tmp_path / "m")
    again = SToFM.from_pretrained(tmp_path / "m")
    assert again.weights_hash() == SToFM.from_pretrained(saved / "pca").weights_hash()


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(saved, tmp_path, name: str) -> None:
    shutil.copytree(saved / "pca", tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    os.mkfifo(tmp_path / "m" / name)
    with pytest.raises(ValueError, match=rf"has no {name}"):
        SToFM.from_pretrained(tmp_path / "m")


def test_json_that_is_nested_too_deep(saved, tmp_path) -> None:
    shutil.copytree(saved / "pca", tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(DEEP)
    with pytest.raises(ValueError, match=r"config\.json: cannot be read as JSON \(it is nested"):
        SToFM.from_pretrained(tmp_path / "m")
    (tmp_path / "v.json").write_text(DEEP)
    with pytest.raises(ValueError, match=r"v\.json: cannot be read as JSON \(it is nested"):
        Vocabulary.from_json(tmp_path / "v.json")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    network = official.OfficialNetwork(official.network.Config(2, 16, 8, 2, 4, 6))
    official.save(network, tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, but .* 2 layers"),
        ("ffn_embedding_dim", 10**11, "100000000000"),
        ("input_dim", "6", "input_dim must be a whole number; found '6'"),
        ("num_attention_heads", 0, "num_attention_heads must be above zero"),
        ("dropout", "0.1", "dropout must be a number; found '0.1'"),
        ("attention_dropout", None, "attention_dropout must be a number; found None"),
        ("activation_fn", ["gelu"], "has activation_fn"),
        ("bias", 1, "has bias = 1"),
    ],
)
def test_official_settings(checkpoint, name: str, value: Any, message: str) -> None:
    in_config(name, value=value)(checkpoint)
    with pytest.raises(ValueError, match=message) as told:
        official.load(checkpoint)
    assert str(checkpoint) in str(told.value)


def test_official_settings_that_are_none(checkpoint) -> None:
    for text, message in (("[1]", "holds a list, and no settings"), (DEEP, "nested too deep")):
        (checkpoint / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            official.load(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, "fc1.weight of .* NaN or infinite"),
        (lambda t: t.long(), "fc1.weight: holds torch.int64, and must hold weights"),
        (lambda t: torch.zeros(1).expand(10**6, 10**6), "fc1.weight is not stored in full"),
        (lambda t: t.to_sparse(), "fc1.weight is not stored in full"),
    ],
)
def test_official_weights(checkpoint, change: Callable, message: str) -> None:
    file = checkpoint / "se2transformer.pth"
    stored = torch.load(file, weights_only=True)
    stored["encoder.layers.1.fc1.weight"] = change(stored["encoder.layers.1.fc1.weight"])
    torch.save(stored, file)
    with pytest.raises(ValueError, match=message):
        official.load(checkpoint)


def test_a_flipped_byte_of_official_weights_is_told(checkpoint) -> None:
    file = checkpoint / "se2transformer.pth"
    whole = file.read_bytes()
    weights = torch.load(file, weights_only=True)["encoder.layers.1.fc1.weight"]
    place = whole.index(weights.numpy().tobytes()) + 2  # PyTorch reads it as another number
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    torch.load(file, weights_only=True)
    with pytest.raises(ValueError, match=r"se2transformer\.pth: is damaged, the checksum"):
        official.load(checkpoint)


def test_pickles_that_nest_are_refused(tmp_path) -> None:
    # A key of tuples of one tuple, twice in each: to hash it takes 2 to the 40th steps.
    nested = b")q\0" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))
    hostile = [b"\x80\2}" + nested + b"K\1s."]
    hostile += [pickle.dumps(values) for values in ({"a": [1]}, {"a": {1, 2}}, {"a": ((1,), 2)})]
    for content in hostile:
        (tmp_path / "d.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="rejected without running any of it: it holds"):
            read_pickle(tmp_path / "d.pkl")


@pytest.mark.parametrize(
    ("tokens", "medians", "message"),
    [
        ({"<pad>": "0"}, {}, r"token_dict.*: holds tokens that are not integers \(<pad>\)"),
        ({"<pad>": 0, "a": 10**12}, {}, "holds tokens of 1020 or more for 2 genes"),
        ({"<pad>": 0, "a": 0}, {}, "two genes have the same token"),
        ({"<pad>": 0, 7: 1}, {}, r"token_dict.*: holds names that are not text \(7\)"),
        ({"<pad>": 0}, {"a": "1.5"}, r"gene_median.*: holds medians that are not above zero"),
        ({"<pad>": {}}, {}, "not integers"),
    ],
)
def test_dictionaries_of_other_things(tmp_path, tokens: dict, medians: dict, message: str) -> None:
    (tmp_path / "token_dictionary.pkl").write_bytes(pickle.dumps(tokens))
    (tmp_path / "gene_median_dictionary.pkl").write_bytes(pickle.dumps(medians))
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_pickles(tmp_path)


@pytest.mark.parametrize("kind", ["pca", "annotator"])
def test_finite_weights_that_overflow_are_told(saved, tmp_path, kind: str) -> None:
    shutil.copytree(saved / kind, tmp_path / "m")
    name = "annotation.head.weight" if kind == "annotator" else LAYER
    in_weights(name, lambda tensor: tensor * 0 + 3e38)(tmp_path / "m")
    tissue = toy_tissue(150, 30, 1, seed=0)
    with pytest.raises(ValueError, match=r"a slice: .* of this model are NaN or infinite"):
        if kind == "annotator":
            Annotator.load(tmp_path / "m").probabilities(tissue, name="a slice")
        else:
            SToFM.from_pretrained(tmp_path / "m").embed(tissue, name="a slice")
