from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from anndata import AnnData, read_h5ad
from typer.testing import CliRunner

from stofm_geo import SToFM
from stofm_geo.cli import app
from stofm_geo.datasets import toy_tissue
from tests.helpers import SMALL


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Two slices of one tissue, a model of the first, and what it was fine-tuned to."""
    folder = tmp_path_factory.mktemp("tasks")
    both = toy_tissue(500, 60, 2, seed=1)
    parts = [both[both.obs["slice_id"] == name].copy() for name in ("slice1", "slice2")]
    for name, part in zip("ab", parts, strict=True):
        part.write_h5ad(folder / f"{name}.h5ad")
    model = SToFM(**SMALL).fit(parts[0], max_steps=2, progress=False)
    model.save_pretrained(folder / "base")
    code, text = run("finetune", folder / "a.h5ad", "-o", folder / "tuned", *of(folder))
    assert code == 0 and "Learned 6 labels from 250 cells in 1 slice, 0 steps" in text, text
    assert "macro-F1" in text and f"Wrote {folder / 'tuned'}" in text
    return folder


def of(folder: Path) -> tuple[object, ...]:
    return ("--task", "region", "--label-key", "region", "--model", folder / "base")


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def refused(message: str, *args: object) -> None:
    code, text = run(*args)
    errors = [line for line in text.splitlines() if line.startswith("Error:")]
    assert code == 1 and len(errors) == 1 and message in errors[0], text
    assert "Traceback" not in text


def test_predict_and_evaluate(work, tmp_path) -> None:
    tuned = work / "tuned"
    code, text = run(
        *("predict", work / "b.h5ad", "--model", tuned, "-o", tmp_path / "b.h5ad"),
        *("--min-probability", 0.5, "--key-added", "layer"),
    )
    assert code == 0 and "b.h5ad: L" in text, text
    adata = read_h5ad(tmp_path / "b.h5ad")
    assert "unassigned" in adata.obs["layer"].cat.categories
    assert adata.obsm["layer_probability"].shape == (250, 6)
    scores = tmp_path / "scores.json"
    code, text = run(
        *("evaluate", work / "a.h5ad", work / "b.h5ad", "--model", tuned),
        *("--label-key", "region", "-o", scores),
    )
    assert code == 0 and "ARI" in text and "F1 " in text and "spatial coherence" in text, text
    told = json.loads(scores.read_text())
    assert set(told) == {str(work / "a.h5ad"), str(work / "b.h5ad")}
    assert told[str(work / "b.h5ad")]["accuracy"] > 0.4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_finetune_end_to_end(work, tmp_path, method) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    code, text = run(
        *("finetune", work / "a.h5ad", "-o", tmp_path / "deep" / "m", *of(work)),
        *("--method", method, "--max-steps", 3),
    )
    assert code == 0 and "steps" in text, text
    assert {file.name for file in (tmp_path / "deep" / "m").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_what_cannot_be_done_is_one_line(work, tmp_path, monkeypatch) -> None:
    a, b, new = work / "a.h5ad", work / "b.h5ad", tmp_path / "new"
    base = ("--task", "region", "--model", work / "base", "--label-key")
    refused("obs has no 'layer' (labels)", "finetune", a, "-o", new, *base, "layer")
    refused("gone.h5ad: no such file", "finetune", tmp_path / "gone.h5ad", "-o", new, *of(work))
    refused(
        "a model without a classifier",
        "predict",
        b,
        "--model",
        work / "base",
        "-o",
        tmp_path / "b.h5ad",
    )
    refused(
        "key_added must be a name without '/'",
        *("predict", b, "--model", work / "tuned", "-o", tmp_path / "b.h5ad"),
        *("--key-added", "layers/fine"),
    )
    assert not (tmp_path / "b.h5ad").exists()
    refused("is the input too", "predict", b, "--model", work / "tuned", "-o", b)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused("holds notes.txt", "finetune", a, "-o", tmp_path / "full", *of(work))
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(
        "pip install 'stofm-geo[finetune]'",
        *("finetune", a, "-o", new, *of(work), "--method", "lora"),
    )
    assert not new.exists()


def spoilt(adata: AnnData, column: object) -> AnnData:
    adata.obs["region"] = column
    return adata


def test_labels_and_slices_that_do_not_do(work, tmp_path) -> None:
    file, new = tmp_path / "odd.h5ad", tmp_path / "new"
    spoilt(read_h5ad(work / "a.h5ad"), float("nan")).write_h5ad(file)
    refused("is missing for all 250 cells", "finetune", file, "-o", new, *of(work))
    scored = ("evaluate", file, "--model", work / "tuned", "--label-key", "region")
    refused("is missing for all 250 cells", *scored)
    spoilt(read_h5ad(work / "a.h5ad"), "L1").write_h5ad(file)
    refused("has only one label", "finetune", file, "-o", new, *of(work))
    spoilt(read_h5ad(work / "a.h5ad"), "Elsewhere").write_h5ad(file)
    code, text = run(*scored)
    assert code == 0 and "(not in training)" in text and "accuracy 0.000" in text, text
    odd = read_h5ad(work / "b.h5ad")
    odd.var_names = [f"X{name}" for name in odd.var_names]
    odd.write_h5ad(file)
    refused(
        "trained for another panel",
        *("predict", file, "--model", work / "tuned", "-o", tmp_path / "out.h5ad"),
    )
