from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from anndata import AnnData

from stofm_geo.genes import RankEncoder, Vocabulary
from stofm_geo.genes import rank_encoder as module

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

GENES = [f"ENSG{i}" for i in range(12)]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokens = {name: i for i, name in enumerate(["<pad>", "<mask>", *GENES, "<cls>"])}
    return Vocabulary(tokens, dict.fromkeys(GENES, 1.0))


@pytest.fixture
def folder(tmp_path, vocabulary):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary.tokens),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "cell_bert")  # with pooling
    torch.save(torch.nn.Linear(16, 6).state_dict(), tmp_path / "cell_proj.bin")
    return tmp_path


@pytest.fixture
def adata() -> AnnData:
    counts = np.random.default_rng(0).poisson(0.6, (40, 12)).astype(np.float32)
    counts[3] = 0
    adata = AnnData(counts)
    adata.var_names = GENES
    return adata


def test_cells_in_batches_are_as_alone(folder, vocabulary, adata, monkeypatch) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    assert encoder.out_channels == 6 and not encoder.bert.training
    together = encoder.transform(adata)
    monkeypatch.setattr(module, "_BATCH", 1)
    np.testing.assert_allclose(encoder.transform(adata), together, atol=1e-6)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_there_and_back(folder, vocabulary, adata, tmp_path) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    (tmp_path / "new").mkdir()
    encoder.save(tmp_path / "new")
    again = RankEncoder.from_folder(tmp_path / "new", vocabulary)
    assert again.weights_hash() == encoder.weights_hash()
    assert np.array_equal(again.transform(adata), encoder.transform(adata))


def test_nothing_is_said(folder, vocabulary, capfd) -> None:
    RankEncoder.from_folder(folder, vocabulary)
    assert capfd.readouterr() == ("", "")


def test_what_does_not_fit_is_named(folder, vocabulary) -> None:
    more = Vocabulary(vocabulary.tokens | {"ENSG99": 40}, vocabulary.medians)
    with pytest.raises(ValueError, match="knows 15 tokens, the vocabulary has 41"):
        RankEncoder.from_folder(folder, more)
    torch.save(torch.nn.Linear(5, 6).state_dict(), folder / "cell_proj.bin")
    with pytest.raises(ValueError, match="takes 5 numbers, the BERT gives 16"):
        RankEncoder.from_folder(folder, vocabulary)
    (folder / "cell_proj.bin").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read as a cell encoder"):
        RankEncoder.from_folder(folder, vocabulary)
    (folder / "cell_bert" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(ValueError, match="cannot be read as a cell encoder"):
        RankEncoder.from_folder(folder, vocabulary)
    (folder / "cell_proj.bin").unlink()
    with pytest.raises(FileNotFoundError, match="the cell encoder needs it"):
        RankEncoder.from_folder(folder, vocabulary)


def test_without_transformers_one_line_says_so(folder, vocabulary, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'stofm-geo\[cell-encoder\]'"):
        RankEncoder.from_folder(folder, vocabulary)
