"""Signals at each stage of a command, sent to this very process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import anndata
import pytest
import torch
from anndata import AnnData
from typer.testing import CliRunner

from stofm_geo import SToFM, tl
from stofm_geo.cli import app
from stofm_geo.datasets import toy_tissue
from stofm_geo.training.pretrain import Pretraining
from tests.helpers import SMALL

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k | {"max_steps": 3}))


@pytest.fixture
def file(tmp_path) -> Path:
    toy_tissue(150, 30, 1, seed=0).write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def sending(number: int, call: Callable, swallowed: bool = False) -> Callable:
    """The call, during which a signal comes; where ``swallowed``, its exception is."""

    def sent(*args: object, **kwargs: object) -> object:
        found = call(*args, **kwargs)
        try:
            os.kill(os.getpid(), number)
        except SystemExit:
            if not swallowed:
                raise
        return found

    return sent


STAGES = [
    (anndata, "read_h5ad", False),
    (Pretraining, "training_step", False),
    (SToFM, "embed", False),
    (tl, "domains", False),
    (AnnData, "write_h5ad", False),
    (AnnData, "write_h5ad", True),
    (Pretraining, "training_step", True),
]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("owner", "name", "swallowed"), STAGES)
def test_a_signal_ends_embed_with_its_own_code(
    file, monkeypatch, number: int, owner: object, name: str, swallowed: bool
) -> None:
    out = file.with_name("out.h5ad")
    out.write_text("old")
    monkeypatch.setattr(owner, name, sending(number, getattr(owner, name), swallowed))
    before = [signal.getsignal(number) for number in SIGNALS]
    result = CliRunner().invoke(app, ["embed", str(file), "-o", str(out), "--n-domains", "2"])
    assert result.exit_code == 128 + number
    told = f"Stopped by {signal.Signals(number).name}"
    assert [line for line in result.output.splitlines() if told in line] == [
        f"{told}; what is written is whole"
    ]
    assert out.read_text() == "old"
    assert sorted(os.listdir(file.parent)) == ["in.h5ad", "out.h5ad"]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_sigterm_ends_a_script_that_fits_with_its_own_code(monkeypatch) -> None:
    sent = sending(signal.SIGTERM, Pretraining.training_step)
    monkeypatch.setattr(Pretraining, "training_step", sent)
    with pytest.raises(SystemExit) as stop:
        SToFM(**SMALL).fit(toy_tissue(150, 30, 1, seed=0), progress=False)
    assert stop.value.code == 128 + signal.SIGTERM


def test_an_interrupt_of_a_fit_is_one_to_its_caller(monkeypatch) -> None:
    sent = sending(signal.SIGINT, Pretraining.training_step)
    monkeypatch.setattr(Pretraining, "training_step", sent)
    # Where tests run in the background of a shell, interrupts are ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            SToFM(**SMALL).fit(toy_tissue(150, 30, 1, seed=0), progress=False)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_pretraining_goes_on_where_a_signal_stopped_it(tmp_path, monkeypatch, number: int) -> None:
    toy_tissue(300, 30, 2, seed=0).write_h5ad(tmp_path / "in.h5ad")
    made = ["corpus", "build", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "c")]
    made += ["--slice-key", "slice_id", "--organism", "none", "--n-components", "6"]
    assert CliRunner().invoke(app, made).exit_code == 0
    settings = {**SMALL, "organism": "null"}

    def train(folder: str) -> tuple[int, str]:
        given = [f"--model.config.{name}={value}" for name, value in settings.items()]
        given += [f"--data.folder={tmp_path / 'c'}", f"--folder={tmp_path / folder}"]
        given += ["--data.node_budget=400", "--trainer.max_steps=6", "--trainer.accelerator=cpu"]
        given += ["--checkpoint_every=2"]
        given += ["--trainer.enable_progress_bar=false"]
        result = CliRunner().invoke(app, ["pretrain", *given])
        return result.exit_code, result.output

    def weights(folder: str) -> dict[str, torch.Tensor]:
        file = tmp_path / folder / "checkpoints" / "last.ckpt"
        return torch.load(file, weights_only=True)["state_dict"]

    step, steps = Pretraining.training_step, []

    def often(self: Pretraining, *args: object) -> torch.Tensor:
        steps.append(self.global_step)
        return (sending(number, step) if len(steps) in (2, 3, 4) else step)(self, *args)

    code, text = train("whole")
    assert code == 0, text
    monkeypatch.setattr(Pretraining, "training_step", often)
    for _ in range(3):  # each at the end of an epoch, which is of one batch
        code, text = train("stopped")
        assert code == 128 + number and "Stopped by" in text, text
    code, text = train("stopped")
    assert code == 0 and "Going on from" in text, text
    assert steps == [0, 1, 2, 3, 4, 5]
    whole, stopped = weights("whole"), weights("stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_full_disk_ends_a_build(file, tmp_path, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("a codec failed") from error

    # The package has a function of the module's name.
    monkeypatch.setattr(import_module("stofm_geo.data.corpus.build"), "write_slice", full)
    made = ["corpus", "build", str(file), "-o", str(tmp_path / "c"), "--organism", "none"]
    result = CliRunner().invoke(app, made)
    assert result.exit_code == 1
    assert "cannot be written, the disk is full; make room, and try again" in result.output
    assert "Skipped" not in result.output
    monkeypatch.undo()
    assert CliRunner().invoke(app, made).exit_code == 0
    assert not list((tmp_path / "c").rglob(".stofm-geo-*"))


def test_a_corpus_is_there_while_more_is_built_into_it(file, tmp_path, monkeypatch) -> None:
    from stofm_geo.data.corpus import read_index, verify

    more, corpus = tmp_path / "more.h5ad", tmp_path / "c"
    toy_tissue(150, 30, 1, seed=1).write_h5ad(more)

    def made(*words: object) -> int:
        given = ["corpus", "build", *map(str, words), "-o", str(corpus), "--organism", "none"]
        return CliRunner().invoke(app, given).exit_code

    assert made(file) == 0
    before = read_index(corpus)
    module = import_module("stofm_geo.data.corpus.build")
    stopped = sending(signal.SIGTERM, module.write_slice)
    monkeypatch.setattr(module, "write_slice", stopped)
    assert made(file, more) == 128 + signal.SIGTERM
    assert read_index(corpus) == before and verify(corpus) == []
    assert made(file, "--k", 8) == 128 + signal.SIGTERM  # its only slice is made anew
    assert not (corpus / "corpus.json").exists()
    monkeypatch.undo()
    assert made(file, more) == 0
    assert len(read_index(corpus)["slices"]) == 2


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["import", "end"])
def test_a_signal_before_and_after_the_command_ends_it_with_its_own_code(
    number: int, moment: str
) -> None:
    script = (
        "import atexit, os, sys, types\n"
        "kill = lambda *_: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "from stofm_geo.__main__ import main\n"
        "cli = types.ModuleType('stofm_geo.cli')\n"
        "cli.__getattr__ = kill\n"  # `from stofm_geo.cli import app`
        "cli.__path__ = None\n"
        "if sys.argv[2] == 'end':\n"
        "    cli.app = lambda **_: atexit.register(kill)\n"
        "sys.modules['stofm_geo.cli'] = cli\n"
        "main()\n"
    )
    words = [sys.executable, "-c", script, str(int(number)), moment]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    said = f"Stopped by {signal.Signals(number).name}; what is written is whole\n"
    if moment == "import":
        assert (run.returncode, run.stderr) == (128 + number, said)
    else:  # shells tell a process that died by a signal as 128 and its number, too
        assert (run.returncode, run.stderr) == (-number, "")
