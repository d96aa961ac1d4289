"""The benchmarks of speed run, on sizes that take seconds, and write what they say."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from stofm_geo.datasets import toy_tissue

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # the benchmarks are not installed
    threads = torch.get_num_threads()

    def run(name: str, *arguments: str) -> dict:
        file = tmp_path / "found" / f"{name}.json"
        module = importlib.import_module(f"benchmarks.speed.{name}")
        module.main(["-o", str(file), "--threads", "1", *arguments])
        return json.loads(file.read_text())

    yield run
    torch.set_num_threads(threads)


def test_attention(run, monkeypatch, capsys) -> None:
    attention = importlib.import_module("benchmarks.speed.attention")
    small = partial(attention.peaks, sizes=(64,), megabytes=1)
    monkeypatch.setattr(attention, "peaks", small)
    sizes = ("--nodes", "60", "--neighbours", "4", "--heads", "2", "--channels", "8")
    found = run("attention", *sizes, "--rounds", "2", "--no-compile")
    assert found["environment"]["commit"] and found["threads"] == 1
    assert found["settings"]["nodes"] == 60
    assert found["peaks"]["gemm_gflops"] > 0 and found["peaks"]["copy_gbytes"] > 0
    assert [graph["graph"] for graph in found["building"]] == [
        "near",
        "far",
        "macro nodes",
        "small",
    ]
    rows = found["rows"]
    assert {row["mode"] for row in rows} == {"forward", "training"}
    assert {(row["heads"], row["channels"]) for row in rows} >= {(2, 8), (1, 1), (3, 5)}
    for row in rows:
        assert row["difference"] < 1e-4 and row["median_ms"] > 0 and row["runs"] == 2
        if row["contender"] == "ours":
            assert row["ratio"] == 1
            assert 0 < row["irreducible_once"] and 0 < row["irreducible_each_read"]
    for graph in ("near", "far"):
        contenders = {row["contender"] for row in rows if row["graph"] == graph}
        assert contenders >= {"ours", "reference", "TransformerConv", "padded", "dense"}
    assert "of ours irreducible" in capsys.readouterr().out


def test_encoder(run, capsys) -> None:
    sizes = ("--cells", "50", "--macro", "4", "--runs", "1", "--ours", "pairs", "weights")
    found = run("encoder", *sizes, "--modes", "training")
    assert found["threads"] == 1 and found["settings"]["cells"] == 50
    assert not found["reference_run"]
    row, other = found["rows"]
    assert other["model"] == "ours, published weights" and other["pairs"] == 55**2
    assert row["model"] == "ours, published pairs" and row["mode"] == "training"
    assert row["pairs"] > 55 and row["median_s"] > 0 and row["peak_mb"] > row["added_mb"]
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert {"linear maps", "edge attention", "radial functions", "geometry"} <= set(row["shares"])
    assert "published model is not run" in capsys.readouterr().out


def test_published_pairs(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    encoder = importlib.import_module("benchmarks.speed.encoder")
    part = encoder.Slice(cells=80, macro=4)
    matrix, (src, dst) = part.matrix(), part.pairs()
    there = torch.zeros_like(matrix, dtype=torch.bool)
    there[dst, src] = True
    assert torch.equal(matrix, matrix.t()) and torch.equal(there, there.t())
    assert (matrix[0] == 0).all() and (matrix.diagonal() == 0).all()
    assert (matrix[~there] == encoder.NOT_TOLD).all() and (matrix[there] < encoder.NOT_TOLD).all()
    assert there[:5].all() and not there.all()
    assert part.pairs().size(1) == there.sum()


def test_subslices(run, capsys) -> None:
    found = run("subslices", "--cells", "1500", "--rounds", "2")
    assert found["settings"]["subslices"] > 1 and found["rows"]["ours"]["runs"] == 2
    assert not found["reference_run"] and "ours" in capsys.readouterr().out


def test_corpus(run, tmp_path, monkeypatch) -> None:
    corpus = importlib.import_module("benchmarks.speed.corpus")
    monkeypatch.setattr(corpus, "fresh", lambda _, task, *given: getattr(corpus, task)(*given))
    (tmp_path / "data").mkdir()
    toy_tissue(1300, 60, n_slices=2).write_h5ad(tmp_path / "data" / "two.h5ad")
    folders = ("--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"))
    sizes = ("--cells", "1200", "--genes", "60", "--epochs", "2", "--steps", "2")
    found = run("corpus", *folders, *sizes, "--organism", "none")
    assert found["toy"]["built"]["cells"] == 1200 and found["files"]["built"]["slices"] == 2
    for row in (*found["toy"]["loaded"], *found["files"]["loaded"]):
        assert row["cells_per_second"]["median"] > 0 and row["peak_gb"] > 0
    assert [row["workers"] for row in found["files"]["loaded"]] == [0, 1]
    training = found["training"]
    assert training["steps"] == 2 and training["loader_to_training"] > 0
    assert training["training_cells_per_second"] > 0
