from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData, read_h5ad

from stofm_geo.genes import RankEncoder, Vocabulary
from stofm_geo.training.adapt_encoder import adapt_encoder, save_adapted
from stofm_geo.training.adaptation_config import AdaptationConfig

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TINY = AdaptationConfig(
    max_length=12, hidden_size=32, layers=2, heads=2, out_channels=8, learning_rate=3e-3
)


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Kinds of cells that have genes of their own."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.3, 3, (4, 30))
    adata = AnnData(sp.csr_matrix(rng.poisson(mean[rng.integers(4, size=160)]).astype(np.int32)))
    adata.var_names = [f"ENSG{i:02}" for i in range(30)]
    return adata


@pytest.fixture(scope="module")
def vocabulary(adata) -> Vocabulary:
    return Vocabulary.from_corpus([adata])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two that wait for each other at every small step are slow where others work, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(adata, vocabulary) -> tuple[RankEncoder, dict]:
    return adapt_encoder([adata], vocabulary, TINY, max_steps=60, progress=False)


@pytest.fixture(scope="module")
def adapted(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapted") / "encoder"
    save_adapted(*trained, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_both_losses_of_cells_held_out_fall(adapted) -> None:
    record = json.loads((adapted / "training.json").read_text())
    before, after = record["held_out_before"], record["held_out_after"]
    assert after["gene_loss"] < before["gene_loss"] - 0.1
    assert after["cell_loss"] < before["cell_loss"] - 0.2
    assert record["steps"] == 60 and record["held_out_cells"] == 16 and record["cells"] == 144
    assert record["settings"]["hidden_size"] == 32 and record["versions"]["transformers"]


def test_there_and_back(trained, adapted, adata, vocabulary) -> None:
    assert Vocabulary.read(adapted) == vocabulary
    encoder, _ = trained
    assert not any(part.training for part in encoder.modules())
    stored = RankEncoder.from_folder(adapted, vocabulary)
    np.testing.assert_array_equal(stored.transform(adata), encoder.transform(adata))


def test_same_seed_same_bytes(adapted, adata, vocabulary, tmp_path) -> None:
    for seed in (0, 1):
        state = torch.get_rng_state()
        made = adapt_encoder([adata], vocabulary, TINY, max_steps=60, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        save_adapted(*made, tmp_path / "again")
        assert (contents(tmp_path / "again") == contents(adapted)) == (seed == 0)


def test_backed_slices_are_as_in_memory(adapted, adata, vocabulary, tmp_path) -> None:
    adata.write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    save_adapted(
        *adapt_encoder(iter([backed]), vocabulary, TINY, max_steps=60, progress=False),
        tmp_path / "b",
    )
    assert contents(tmp_path / "b") == contents(adapted)
    backed.file.close()


def test_frozen_layers_stay(adapted, adata, vocabulary) -> None:
    settings = AdaptationConfig(max_length=12, freeze_layers=1, learning_rate=1e-2)
    before = RankEncoder.from_folder(adapted, vocabulary)
    after, _ = adapt_encoder(
        [adata], vocabulary, settings, init=adapted, max_steps=3, progress=False
    )
    changed = {
        name
        for name, weight in after.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    frozen = ("bert.embeddings.", "bert.encoder.layer.0.")
    assert changed and not any(name.startswith(frozen) for name in changed)
    assert "bert.encoder.layer.1.output.dense.weight" in changed and "projection.weight" in changed


@pytest.mark.parametrize("safe", [True, False])
def test_a_bert_without_cls_is_given_it(adata, vocabulary, tmp_path, safe: bool) -> None:
    """As Geneformer is: a masked-language model, whose vocabulary ends with the genes."""
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=len(vocabulary.tokens) - 1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=20,
        )
    )
    bert.save_pretrained(tmp_path)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
        torch.save(bert.state_dict(), tmp_path / "pytorch_model.bin")
    settings = AdaptationConfig(max_length=12, learning_rate=1e-9, weight_decay=0)
    encoder, _ = adapt_encoder(
        [adata], vocabulary, settings, init=tmp_path, max_steps=1, progress=False
    )
    made = encoder.bert.embeddings.word_embeddings.weight
    assert made.shape == (len(vocabulary.tokens), 16) and encoder.out_channels == 256
    torch.testing.assert_close(made[:-1], bert.bert.embeddings.word_embeddings.weight)


def test_what_does_not_fit_is_named(adapted, adata, vocabulary, tmp_path) -> None:
    def refused(match: str, slices=(adata,), words=vocabulary, settings=TINY, **options) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            adapt_encoder(slices, words, settings, progress=False, **options)

    fewer = Vocabulary.from_corpus([adata[:, :20].copy()])
    refused("has another vocabulary.json; use that", words=fewer, init=adapted)
    (tmp_path / "bert").symlink_to(adapted / "cell_bert")
    refused("has 33 tokens, and the vocabulary 23", words=fewer, init=tmp_path / "bert")
    refused("no such file; a BERT's folder has one", init=tmp_path / "absent")
    longer = AdaptationConfig(max_length=13)
    refused("takes at most 12 tokens per cell; lower max_length=13", settings=longer, init=adapted)
    frozen = AdaptationConfig(max_length=12, freeze_layers=3)
    refused("freeze_layers=3, but the BERT has 2 layers", settings=frozen, init=adapted)
    refused("0 cells have genes with tokens", slices=[])
    other = adata.copy()
    other.var_names = [f"ENSMUSG{i}" for i in range(30)]
    refused("slice 1: 0 of 30 genes have tokens", slices=[adata, other])
    refused("max_steps must be above zero", max_steps=0)
    unmasked = Vocabulary({"<pad>": 0, "ENSG00": 1, "<cls>": 2}, {"ENSG00": 1.0})
    refused("has no '<mask>'", words=unmasked)


class _Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def test_weights_that_would_run_are_refused(adapted, adata, vocabulary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(adapted / "cell_bert" / "config.json", tmp_path)
    torch.save({"weight": _Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read as a BERT"):
        adapt_encoder([adata], vocabulary, TINY, init=tmp_path, progress=False)
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30}, "hidden_size=30 must be a multiple of heads=4"),
        ({"batch_size": 1}, "batch_size must be 2 or more; found 1"),
        ({"max_length": 1}, "max_length must be 2 or more; found 1"),
        ({"temperature": 0}, "temperature must be above zero"),
        ({"mask_ratio": 2}, "mask_ratio must be a fraction"),
        ({"freeze_layers": -1}, "freeze_layers must be zero or more"),
    ],
)
def test_unfit_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptationConfig(**settings)


def test_nothing_is_said(adapted, adata, vocabulary, capfd) -> None:
    settings = AdaptationConfig(max_length=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapt_encoder([adata], vocabulary, settings, init=adapted, max_steps=1, progress=False)
    assert capfd.readouterr() == ("", "")
