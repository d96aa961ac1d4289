"""Pre-training on a corpus: resumed, on two ranks, refused where it does not fit."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from typer.testing import CliRunner

from stofm_geo import SToFM
from stofm_geo._hash import weights_hash
from stofm_geo.cli import app
from stofm_geo.data.corpus import CorpusDataset, NodeBudgetBatchSampler, build, find_sources
from stofm_geo.datasets import toy_tissue
from stofm_geo.networks import files
from stofm_geo.nn import geometry
from stofm_geo.training.callbacks import SaveBestModel
from stofm_geo.training.checkpoints import AtomicCheckpointIO
from stofm_geo.training.command import command
from tests.helpers import CUT, SMALL

STEPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    tissue = toy_tissue(960, 30, n_slices=4, seed=0)
    tissue.write_h5ad(folder / "tissue.h5ad")
    found = find_sources([folder], slice="slice_id", organism="none")
    assert build(found, folder / "corpus", **CUT) == []
    return folder / "corpus"


@pytest.fixture(scope="module")
def molecules(corpus) -> Path:
    """The same slices, with molecules held out."""
    found = find_sources([corpus.parent / "tissue.h5ad"], slice="slice_id", organism="none")
    folder = corpus.parent / "molecules"
    assert build(found, folder, **CUT, molecules=True) == []
    return folder


def arguments(corpus: Path, folder: Path) -> list[str]:
    sizes = {**SMALL, **CUT, "encoder": "panel", "organism": "null"}
    return [
        f"--folder={folder}",
        "--checkpoint_every=3",
        f"--data.folder={corpus}",
        "--data.node_budget=200",
        "--data.held_out=0.25",
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=5",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.enable_progress_bar=false",
        *(f"--model.config.{name}={value}" for name, value in sizes.items()),
    ]


class Killed(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt  # nothing of the run is left but what is on disk


def run(corpus: Path, folder: Path, *more: str, killed_at: int | None = None) -> str:
    """Weights after a run, or after it was killed."""
    cli = command([*arguments(corpus, folder), *more])
    if killed_at is not None:
        cli.trainer.callbacks.append(Killed(killed_at))
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        cli.trainer.ckpt_path = last  # as the command does
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        return ""
    return weights_hash(cli.model.network.state_dict())


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(corpus, folder)


def test_a_run_leaves_a_model_logs_and_a_checkpoint(corpus, undisturbed) -> None:
    folder, _ = undisturbed
    model = SToFM.from_pretrained(folder / "model")
    adata = toy_tissue(200, 30, seed=5)
    model.embed(adata)
    assert np.isfinite(adata.obsm["X_stofm"]).all()
    assert model.training_record["niche_loss"] > 0 and len(model.training_record["corpus"]) == 64
    logs = (folder / "csv" / "version_0" / "metrics.csv").read_text()
    for name in ("niche_loss", "distance_loss", "val/niche_loss_plain", "val/effective_rank"):
        assert name in logs.splitlines()[0]
    assert list((folder / "tensorboard").rglob("events*"))


def test_killed_runs_end_with_the_same_weights(corpus, undisturbed, tmp_path, monkeypatch) -> None:
    for step in (4, 8, 11):  # inside epochs, and not where checkpoints are
        assert run(corpus, tmp_path, killed_at=step) == ""

    def opens_all(self) -> list:  # minutes for thousands of slices, and overwritten
        raise AssertionError("a run that goes on needs no warm start")

    monkeypatch.setattr(CorpusDataset, "components", opens_all)
    assert run(corpus, tmp_path) == undisturbed[1]


MOLECULES = "--model.config.objectives=molecules"


def test_killed_runs_on_molecules_end_with_the_same_weights(molecules, tmp_path) -> None:
    expected = run(molecules, tmp_path / "undisturbed", MOLECULES)
    for step in (4, 8):
        assert run(molecules, tmp_path / "killed", MOLECULES, killed_at=step) == ""
    assert run(molecules, tmp_path / "killed", MOLECULES) == expected
    model = SToFM.from_pretrained(tmp_path / "killed" / "model")
    assert list(model.network.columns) == ["niche", "denoised", "context"]
    adata = toy_tissue(200, 30, seed=5)
    model.embed(adata, progress=False)
    assert np.isfinite(adata.obsm["X_stofm"]).all()
    logs = (
        (tmp_path / "undisturbed" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    )
    assert "val/molecule_loss_plain" in logs and "niche_loss" not in logs


def test_a_corpus_is_of_one_objective(corpus, molecules, tmp_path) -> None:
    with pytest.raises(
        ValueError, match="built without --molecules, and objectives is 'molecules'"
    ):
        run(corpus, tmp_path, MOLECULES)
    with pytest.raises(ValueError, match="built with --molecules, and objectives is 'niches'"):
        run(molecules, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["on_validation_start", "on_validation_end"])
def test_a_run_killed_at_a_validation_does_not_miss_it(
    corpus, undisturbed, tmp_path, monkeypatch, moment
) -> None:
    folder, weights = undisturbed
    with monkeypatch.context() as patched:
        for step in (5, 10):  # each validation there is
            patched.setattr(SaveBestModel, moment, _kill_at(step, getattr(SaveBestModel, moment)))
            assert run(corpus, tmp_path, "--checkpoint_every=5") in ("", weights)
    assert run(corpus, tmp_path, "--checkpoint_every=5") == weights
    states = [_checkpoint(each)["callbacks"] for each in (folder, tmp_path)]
    best = [state[next(key for key in state if key == "SaveBestModel")] for state in states]
    assert best[0] == best[1] and np.isfinite(best[0]["best"])
    expected, found = (SToFM.from_pretrained(each / "model") for each in (folder, tmp_path))
    assert found.weights_hash() == expected.weights_hash()
    assert found.training_record == expected.training_record


def _kill_at(step: int, hook):
    def killed(self, trainer, *args) -> None:
        if trainer.global_step == step and not trainer.sanity_checking:
            raise KeyboardInterrupt
        hook(self, trainer, *args)

    return killed


def _checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_killed_runs_with_tables_of_radial_functions(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        geometry, "_TABLE_MIN_EDGES", 100
    )  # edges: knots are kept from step to step
    expected = run(corpus, tmp_path / "undisturbed")
    assert run(corpus, tmp_path / "killed", killed_at=8) == ""
    assert run(corpus, tmp_path / "killed") == expected


@pytest.mark.slow
def test_kill_9(corpus, undisturbed, tmp_path) -> None:
    rng = np.random.default_rng(0)
    words = [sys.executable, "-m", "stofm_geo", "pretrain", *arguments(corpus, tmp_path)]
    last = tmp_path / "checkpoints" / "last.ckpt"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for _ in range(3):
        before = last.stat().st_mtime_ns if last.is_file() else 0
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if last.is_file() and last.stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(corpus, tmp_path) == undisturbed[1]


class _Pairs(NodeBudgetBatchSampler):
    """The batches of two processes, joined for one."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.num_replicas = 2
        self.batches += self.batches % 2

    def __iter__(self):
        both = zip(self.all_batches()[0::2], self.all_batches()[1::2], strict=True)
        return iter([np.concatenate(pair).tolist() for pair in both][self.position :])


@pytest.mark.slow
def test_two_ranks_are_one_with_twice_the_batch(corpus, tmp_path, monkeypatch) -> None:
    def words(folder: Path) -> list[str]:
        more = [
            "--model.config.dropout=0",  # which is drawn for a batch
            "--trainer.max_steps=20",
            "--checkpoint_every=20",
            "--trainer.limit_val_batches=0",
        ]
        return [*arguments(corpus, folder), *more]

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        file = folder / "checkpoints" / "last.ckpt"
        return torch.load(file, weights_only=True)["state_dict"]

    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    ranks = [sys.executable, "-m", "stofm_geo", "pretrain", *words(tmp_path / "two"), *two]
    subprocess.run(ranks, check=True, capture_output=True, timeout=300)
    monkeypatch.setattr("stofm_geo.training.corpus_data.NodeBudgetBatchSampler", _Pairs)
    cli = command(words(tmp_path / "one"))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    single, double = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert single.keys() == double.keys()
    for name, value in single.items():
        torch.testing.assert_close(double[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_a_frozen_encoder_stays_until_it_is_free(corpus, tmp_path) -> None:
    weights = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            weights.append(pl_module.network.encoder.embedding.detach().clone())

    cli = command([*arguments(corpus, tmp_path), "--model.freeze_encoder_steps=4"])
    cli.trainer.callbacks.append(Watch())
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert torch.equal(weights[0], weights[3])
    assert not torch.equal(weights[3], weights[4])


def test_collapse_is_told(corpus, tmp_path) -> None:
    cli = command(arguments(corpus, tmp_path))
    cli.model.first_rank = 1000.0
    with pytest.warns(UserWarning, match="embeddings collapse: their effective rank fell from 100"):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)


def test_the_best_model_is_kept(corpus, undisturbed, tmp_path) -> None:
    keep = SaveBestModel(str(tmp_path / "a" / "model"))
    assert keep.state_dict() == {"best": float("inf")}
    keep.load_state_dict({"best": 0.5})
    assert keep.best == 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.config.k=7"], "built with other settings (k=6 there, 7 here)"),
        (["--model.config.organism=auto"], "its genes are no human Ensembl ids"),
        (["--model.config.encoder=pca"], "a corpus needs encoder='panel'"),
        (["--data.folder=nowhere"], "nowhere: has no corpus.json"),
        (["--trainer.max_stepz=3"], "--trainer.max_stepz=3; stofm-geo pretrain --help lists all"),
        (["--data.node_budget=many"], 'key "data.node_budget": Expected a'),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(corpus, tmp_path, more, message) -> None:
    result = CliRunner().invoke(app, ["pretrain", *arguments(corpus, tmp_path), *more])
    assert result.exit_code == 1
    assert result.stderr.count("Error:") == 1 and "usage:" not in result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder: [1]", 'key "folder": Expected a'),
        ("checkpoint_every: 0", "checkpoint_every must be above zero; found 0"),
        ("data: {node_budget: -1}", "node_budget must be above zero; found -1"),
        ("data: {folder: gone}", "gone: has no corpus.json"),
        ("seed_everything: -1", "-1 is not in bounds"),
        ("trainer: {accelerator: abacus}", "abacus"),
        ("data: [", "Problems parsing config"),
        (b"data: \xff", "can't decode byte 0xff"),
    ],
)
def test_a_file_of_settings_is_named(corpus, tmp_path, text: str | bytes, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    for option in (["--config", str(file)], [f"--config={file}"]):  # the last word counts
        result = CliRunner().invoke(app, ["pretrain", *arguments(corpus, tmp_path), *option])
        assert result.exit_code == 1
        assert f"Error: {file}: " in result.stderr and message in result.stderr
        assert "Traceback" not in result.stderr


def test_a_checkpoint_of_another_architecture(corpus, undisturbed, tmp_path) -> None:
    folder, _ = undisturbed
    words = ["pretrain", *arguments(corpus, folder), "--model.config.hidden_channels=32"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "checkpoint has other settings (hidden_channels=16 there, 32 here)" in said


def test_a_finished_run_is_not_taken_further(corpus, undisturbed, tmp_path) -> None:
    folder = shutil.copytree(undisturbed[0], tmp_path / "run")
    words = ["pretrain", *arguments(corpus, folder), f"--trainer.max_steps={STEPS + 4}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert (
        f"learning-rate schedule of the checkpoint has {STEPS} steps, but max_steps is {STEPS + 4}"
        in said
    )


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_is_whole_or_the_last_one(undisturbed, tmp_path, monkeypatch) -> None:
    writer, file = AtomicCheckpointIO(), tmp_path / "checkpoints" / "last.ckpt"
    writer.save_checkpoint({"a": 1}, file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_room)
        with pytest.raises(OSError, match=f"{file}: cannot be written, the disk is full; make"):
            writer.save_checkpoint({"a": 2}, file)
    assert writer.load_checkpoint(file) == {"a": 1}
    assert [inside.name for inside in file.parent.iterdir()] == ["last.ckpt"]


def test_the_command_writes_whole_checkpoints(corpus, tmp_path) -> None:
    cli = command(arguments(corpus, tmp_path))
    assert isinstance(cli.trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_reading_a_checkpoint_removes_what_a_killed_run_left_beside_it(tmp_path) -> None:
    writer, file = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"a": 1}, file)
    (tmp_path / ".stofm-geo-killed").mkdir()
    assert writer.load_checkpoint(file, weights_only=True) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_cut_short_is_told(corpus, undisturbed, tmp_path) -> None:
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.parent.mkdir()
    whole = (undisturbed[0] / "checkpoints" / "last.ckpt").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    result = CliRunner().invoke(app, ["pretrain", *arguments(corpus, tmp_path)])
    assert result.exit_code == 1
    assert f"Error: {file}: cannot be read as a checkpoint (" in result.stderr
    assert "remove it to start again" in result.stderr


def test_a_model_without_room_is_told(undisturbed, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model = SToFM.from_pretrained(undisturbed[0] / "model")
    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="m: cannot be written, the disk is full"):
        model.save_pretrained(tmp_path / "m")
    assert not list(tmp_path.iterdir())
