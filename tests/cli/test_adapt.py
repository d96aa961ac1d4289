from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from typer.testing import CliRunner

from stofm_geo.cli import app
from stofm_geo.genes import RankEncoder, Vocabulary

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TINY = ("--max-steps", 2, "--max-length", 8, "--hidden-size", 8, "--layers", 1, "--heads", 1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A slice and its vocabulary."""
    counts = np.random.default_rng(0).poisson(1.0, (30, 10)).astype(np.int32)
    adata = AnnData(sp.csr_matrix(counts))
    adata.var_names = [f"ENSG{i}" for i in range(10)]
    adata.write_h5ad(tmp_path / "slice.h5ad")
    Vocabulary.from_corpus([adata]).to_json(tmp_path / "words.json")
    return tmp_path / "slice.h5ad", tmp_path / "words.json"


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["adapt", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def refused(message: str, *args: object) -> None:
    """One line, and nothing new on disk."""
    folder = Path(args[args.index("-o") + 1]).parent
    before = sorted(folder.rglob("*"))
    code, text = run(*args)
    errors = [line for line in text.splitlines() if line.startswith("Error:")]
    assert code == 1 and len(errors) == 1 and message in errors[0], text
    assert "Traceback" not in text and sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_an_encoder_is_written_and_taken_further(files, tmp_path) -> None:
    file, words = files
    out, more = tmp_path / "deep" / "out", tmp_path / "more"
    code, text = run(file, file, "-o", out, "--vocabulary", words, *TINY)
    assert code == 0 and "Adapted to 54 cells, 2 steps" in text and "cell loss" in text, text
    assert sorted(os.listdir(out)) == [
        *("cell_bert", "cell_proj.bin", "training.json", "vocabulary.json")
    ]
    assert RankEncoder.from_folder(out, Vocabulary.read(out)).out_channels == 256
    again = ("--vocabulary", out, "--init", out, *TINY[:4], "--freeze-layers", 1)
    code, text = run(file, "-o", more, *again)
    assert code == 0, text
    record = json.loads((more / "training.json").read_text())
    assert record["init"] == str(out) and record["settings"]["freeze_layers"] == 1


def test_what_cannot_be_done_is_one_line(files, tmp_path, monkeypatch) -> None:
    file, words = files
    out = tmp_path / "out"
    base = (file, "-o", out, "--vocabulary", words)
    assert run(*base, *TINY)[0] == 0
    few = {"tokens": {"<pad>": 0, "<mask>": 1, "ENSG1": 2, "<cls>": 3}, "medians": {"ENSG1": 1.0}}
    (tmp_path / "few.json").write_text(json.dumps(few | {"orthologs": {}}))
    new = (file, "-o", tmp_path / "new", "--vocabulary")
    refused(
        "has 13 tokens, and the vocabulary 4; use that of the model",
        *(*new, tmp_path / "few.json", "--init", out / "cell_bert", *TINY[:4]),
    )
    refused("1 of 10 genes have tokens", *new, tmp_path / "few.json", *TINY)
    refused("no such file; Vocabulary.to_json writes one", *new, tmp_path / "gone.json", *TINY)
    refused("gone.h5ad: no such file", tmp_path / "gone.h5ad", *new[1:], words, *TINY)
    refused("has sizes of its own; leave out layers", *new, words, "--init", out, "--layers", 2)
    refused("must be a multiple of heads=3", *new, words, *TINY, "--heads", 3)
    refused("learning_rate must be above zero", *new, words, *TINY, "--learning-rate", 0)
    (out / "notes.txt").write_text("mine")
    refused("holds notes.txt, which would be lost", *base, *TINY)
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("pip install 'stofm-geo[cell-encoder]'", *new, words, *TINY)
