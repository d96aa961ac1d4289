from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from safetensors.torch import load_file, save_file

from stofm_geo.genes import RankEncoder, Vocabulary
from stofm_geo.genes import rank_encoder as module

pytestmark = pytest.mark.filterwarnings("ignore:1 of 40 cells have no counts")
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
    with pytest.raises(ValueError, match="has 15 tokens, and the vocabulary 41"):
        RankEncoder.from_folder(folder, more)
    torch.save(torch.nn.Linear(5, 6).state_dict(), folder / "cell_proj.bin")
    with pytest.raises(ValueError, match="has 5 inputs, and the BERT 16 outputs"):
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


def test_cells_without_tokens_are_cls_alone(folder, vocabulary, adata) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    with pytest.warns(UserWarning, match="1 of 40 cells have no counts of genes with tokens"):
        vectors = encoder.transform(adata)
    cls = torch.tensor([[vocabulary.tokens["<cls>"]]])
    alone = encoder(cls, torch.ones_like(cls)).detach().numpy()
    np.testing.assert_allclose(vectors[[3]], alone, atol=1e-6)


def test_a_save_is_all_or_nothing(folder, vocabulary, tmp_path, monkeypatch) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    path = tmp_path / "saved" / "encoder"
    path.parent.mkdir()

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as context:
        context.setattr(torch, "save", full)
        with pytest.raises(OSError, match="no space left"):
            encoder.save(path)
        assert not list(path.parent.iterdir())
    encoder.save(path)
    encoder.save(path)  # the same again
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="which would be lost"):
        encoder.save(path)


def with_known(adata: AnnData, share: float) -> AnnData:
    """So many of the counts are of genes with tokens."""
    adata = adata.copy()
    known = round(12 * share)
    adata.X[:] = 1
    adata.var_names = [*GENES[:known], *(f"ENSG9{i}" for i in range(12 - known))]
    return adata


def test_genes_without_tokens_are_told(folder, vocabulary, adata) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.transform(with_known(adata, 8 / 12))
    few = r"6 of 12 genes have tokens, with 50 % of the counts \(without a token: ENSG90, ENSG91, "
    with pytest.warns(UserWarning, match=few):
        encoder.transform(with_known(adata, 6 / 12))
    with pytest.raises(
        ValueError, match=r"2 of 12 genes have tokens, with 17 % .* Ensembl ids of the"
    ):
        encoder.transform(with_known(adata, 2 / 12))


def test_vectors_go_under_a_key_of_the_weights(folder, vocabulary, adata) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    key = f"X_cell_{encoder.weights_hash()}"
    assert encoder.vectors_key == key and len(encoder.weights_hash()) == 12
    adata.obsm[key] = np.zeros((40, 3))  # cannot be these weights'
    encoder.annotate(adata)
    expected = encoder.transform(adata)
    np.testing.assert_array_equal(adata.obsm[key], expected)
    adata.obsm[key][0] = 7
    encoder.annotate(adata)
    assert (adata.obsm[key][0] == 7).all()  # they were there
    encoder.annotate(adata, "mine")
    np.testing.assert_array_equal(adata.obsm["mine"], expected)


def test_a_backed_file_gives_the_same_bytes(folder, vocabulary, adata, tmp_path) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    adata.write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    assert encoder.transform(backed).tobytes() == encoder.transform(adata).tobytes()
    backed.file.close()


def test_blocks_do_not_matter(folder, vocabulary, adata, monkeypatch) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    whole = encoder.transform(adata)
    monkeypatch.setattr(module.token_blocks, "__defaults__", (2048, 9))
    np.testing.assert_allclose(encoder.transform(adata), whole, atol=1e-6)


def test_a_bar_is_shown_when_asked(folder, vocabulary, adata, capsys) -> None:
    encoder = RankEncoder.from_folder(folder, vocabulary)
    encoder.transform(adata)
    assert "Cells" not in capsys.readouterr().out
    encoder.transform(adata, progress=True)
    assert "Cells" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, but there are weights of"),
        ("hidden_size", 10**9, "1000000000"),
        ("intermediate_size", 10**11, "100000000000"),
        ("vocab_size", 10**9, "1000000000"),
        ("max_position_embeddings", "512", "must be a whole number; found '512'"),
    ],
)
def test_sizes_are_compared_with_the_weights(folder, vocabulary, name, value, message) -> None:
    file = folder / "cell_bert" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(ValueError, match=message):
        RankEncoder.from_folder(folder, vocabulary)


def test_weights_that_are_missing_or_no_numbers(folder, vocabulary) -> None:
    file = folder / "cell_bert" / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if name.endswith("layer.0.output.dense.weight"))
    for part, message in (
        ({key: value for key, value in whole.items() if key != name}, "has no weights .*output.de"),
        ({**whole, name: whole[name] * torch.nan}, "hold NaN or infinite weights"),
    ):
        save_file(part, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            RankEncoder.from_folder(folder, vocabulary)
