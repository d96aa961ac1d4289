from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import torch

from stofm_geo.models import official
from stofm_geo.models.official import checkpoint
from tests.helpers import killed_at_each_call


@pytest.fixture
def folder(tiny, tmp_path):
    """The checkpoint of ``tiny`` as the published code would have written it, heads within."""
    (tmp_path / "config.json").write_text(json.dumps(tiny.config))
    torch.save(tiny.weights(), tmp_path / "se2transformer.pth")
    return tmp_path


def same(one: official.OfficialNetwork, other: official.OfficialNetwork) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
@pytest.mark.parametrize("heads", [True, False])
def test_prefixes_and_heads(tiny, folder, prefix: str, heads: bool) -> None:
    state = {checkpoint.bare(name): tensor for name, tensor in tiny.weights().items()}
    state = {prefix + name: t for name, t in state.items() if heads or "_head" not in name}
    torch.save(state, folder / "se2transformer.pth")
    network = official.load(folder).network
    assert not network.training and (network.lm_head is not None) == heads
    if heads:
        assert same(network, tiny.network())


@pytest.mark.parametrize("heads", [True, False])
def test_there_and_back(tiny, tmp_path, heads: bool) -> None:
    network = tiny.network()
    if not heads:
        network.lm_head = network.pair_head = None
    official.save(network, tmp_path / "new")
    assert same(official.load(tmp_path / "new").network, network)
    # The published code: every name, bare, of the published shape, and no more.
    stored = torch.load(tmp_path / "new" / "se2transformer.pth", weights_only=True)
    given = {n.removeprefix("model."): t for n, t in tiny.weights().items() if "_head" not in n}
    assert stored.keys() == given.keys()
    assert all(torch.equal(stored[name], given[name]) for name in given)
    assert (tmp_path / "new" / "pretraining_heads.pth").exists() == heads
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert tiny.config.items() <= config.items()


def test_heads_of_an_earlier_model_do_not_stay(tiny, tmp_path) -> None:
    network = tiny.network()
    official.save(network, tmp_path)
    network.lm_head = network.pair_head = None
    official.save(network, tmp_path)
    assert official.load(tmp_path).network.lm_head is None


def test_all_misfits_are_listed_at_once(tiny, folder) -> None:
    state = tiny.weights()
    del state["model.embedding_layer.bias"]
    state["model.gaussian.linear.weight"] = torch.ones(2, 2)
    state["model.surprise"] = torch.ones(1)
    torch.save(state, folder / "se2transformer.pth")
    with pytest.raises(ValueError) as caught:
        official.load(folder)
    message = str(caught.value)
    assert "missing: embedding_layer.bias [64]" in message
    assert "unknown: surprise" in message
    assert "gaussian.linear.weight: [2, 2], by config.json [1, 1]" in message


def test_what_is_no_checkpoint_is_named(folder) -> None:
    weights = folder / "se2transformer.pth"
    torch.save([torch.ones(1)], weights)
    with pytest.raises(ValueError, match="is not a state dict of tensors"):
        official.load(folder)
    weights.write_bytes(b"cut short")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        official.load(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"se2transformer\.pth: no such file"):
        official.load(folder)
    (folder / "config.json").write_text("{")
    torch.save({}, weights)
    with pytest.raises(ValueError, match=r"config\.json"):
        official.load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json"):
        official.load(folder)


class _Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def test_a_hostile_checkpoint_runs_nothing(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "se2transformer.pth").write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        official.load(folder)
    torch.save({"embedding_layer.weight": _Hostile()}, folder / "se2transformer.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        official.load(folder)
    assert not (folder / "hostile-was-here").exists()


@pytest.mark.slow
def test_saving_over_a_checkpoint_survives_a_kill(tiny, tmp_path) -> None:
    folder, network = tmp_path / "c", tiny.network()
    official.save(network, tmp_path / "old")
    bare = tiny.network()
    bare.lm_head = bare.pair_head = None

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)

    heads = set()
    for _ in killed_at_each_call(lambda: official.save(bare, folder), prepare):
        found = official.load(folder).network
        assert same(found, network if found.lm_head is not None else bare)
        heads.add(found.lm_head is not None)
    assert heads == {True, False}
