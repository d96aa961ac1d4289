"""Some hundred damaged inputs of every kind; ``python -m benchmarks.quality.fuzz`` tries more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.fuzz.damage import Damage
from benchmarks.quality.fuzz.inputs import Input, digest
from benchmarks.quality.fuzz.trials import FAULTS, Trials

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
SEED = 0
# Some of each kind; more of them by `pytest -m slow`.
TRIALS = [range(5), pytest.param(range(5, 14), marks=pytest.mark.slow)]
KINDS = (
    *("model", "annotator", "vocabulary.json", "checkpoint", "csr.h5ad", "dense.h5ad"),
    *("source.h5ad", "v2.zarr", "v3.zarr", "corpus", "manifest.csv", "pretrain.yaml"),
)


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> Trials:
    return Trials(tmp_path_factory.mktemp("fuzz"), SEED)


def test_every_kind_is_tried(trials) -> None:
    assert tuple(trials.inputs) == KINDS


@pytest.mark.parametrize("numbers", TRIALS, ids=["few", "more"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told(trials, kind: str, numbers: range) -> None:
    for number in numbers:
        came = trials.run(kind, number)
        assert came.found not in FAULTS, f"--seed {SEED} --only {kind}:{number}: {came}"


def test_a_trial_can_be_done_again(trials) -> None:
    first = trials.run("csr.h5ad", 3)
    trials.run("csr.h5ad", 4)
    assert trials.run("csr.h5ad", 3) == first


def hang(path: Path) -> None:
    while path:
        pass


def crash(path: Path) -> None:
    os.abort()


def fill(path: Path) -> None:
    np.empty(3 * 2**30, dtype=np.uint8)


def unnamed(path: Path) -> None:
    raise ValueError("it is damaged")


def named(path: Path) -> None:
    raise ValueError(f"{path}: is damaged")


def of_another_kind(path: Path) -> None:
    raise ZeroDivisionError(f"{path}")


def size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize(
    ("read", "content", "found"),
    [
        (hang, None, "hang"),
        (crash, None, "traceback"),
        (fill, None, "memory"),
        (unnamed, None, "traceback"),
        (of_another_kind, None, "traceback"),
        (named, None, "clear"),
        (len, None, "traceback"),
        (lambda path: 1, None, "harmless"),
        (size, None, "silent"),
        (size, lambda path: 1, "silent"),
        (size, named, "silent"),
        (size, size, "other input"),
    ],
)
def test_classes(trials, monkeypatch, read, content, found: str) -> None:
    """Of readers whose faults are known."""

    def cut(path: Path, draw) -> Damage:
        path.write_bytes(path.read_bytes()[:-1])
        return Damage("cut")

    name = "manifest.csv"
    whole = (trials.whole / name).stat().st_size
    expected = {"read": digest(1), "warnings": [], "content": digest(1)}
    if content is size:
        expected["content"] = digest(whole)
    monkeypatch.setitem(trials.inputs, name, Input(read, content))
    monkeypatch.setitem(trials._expected, name, expected)
    monkeypatch.setattr("benchmarks.quality.fuzz.trials.damage", cut)
    monkeypatch.setattr("benchmarks.quality.fuzz.trials._SECONDS", 1)
    assert trials.run(name, 0).found == found
