from __future__ import annotations

import anndata
import numpy as np
import pytest
from anndata import AnnData
from typer.testing import CliRunner

from stofm_geo import SToFM
from stofm_geo.cli import app
from stofm_geo.genes import Vocabulary, as_counts, ensembl_ids, rank_tokens
from stofm_geo.models import official


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    adata = AnnData(np.ones((240, 4), dtype=np.float32))
    adata.obsm["spatial"] = rng.uniform(0, 900, (240, 2))
    adata.obsm["cell"] = rng.normal(size=(240, 64)).astype(np.float32)
    adata.obs["slice_id"] = np.repeat(["a", "b"], 120)
    return adata


@pytest.fixture
def folder(tiny, tmp_path):
    official.save(tiny.network(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_embeddings_step_by_step(folder, adata) -> None:
    model = SToFM.from_official(folder)
    model.embed(adata, use_rep="cell", cells_per_subslice=100)
    pos, x = adata.obsm["spatial"], adata.obsm["cell"]
    made = official.subslices(pos, x, *official.macro_nodes(pos, x), 100)
    expected = np.empty((240, 64), dtype=np.float32)
    for subslice in made:
        cells = subslice.n_id >= 0
        expected[subslice.n_id[cells]] = model(subslice)[cells].detach()
    np.testing.assert_allclose(adata.obsm["X_stofm"], expected, atol=1e-5)
    assert adata.uns["stofm"]["attention"] == "slice"
    assert adata.uns["stofm"]["features"] == "cell"


def test_slices_are_embedded_apart(folder, adata) -> None:
    model = SToFM.from_official(folder, "edges")
    model.embed(adata, use_rep="cell", slice_key="slice_id", key_added="both")
    alone = adata[adata.obs["slice_id"] == "b"].copy()
    model.embed(alone, use_rep="cell")
    np.testing.assert_allclose(adata.obsm["both"][120:], alone.obsm["X_stofm"], atol=1e-5)


def test_bad_input_is_named(folder, adata) -> None:
    model = official.load(folder)
    with pytest.raises(ValueError, match="has no folder cell_encoder, so counts cannot"):
        model.embed(adata)
    with pytest.raises(KeyError, match="obsm has no 'X'"):
        model.embed(adata, use_rep="X")
    adata.obsm["cell"] = adata.obsm["cell"][:, :5]
    with pytest.raises(ValueError, match=r"slice 7: obsm\['cell'\] has 5 columns, the model takes"):
        model.embed(adata, use_rep="cell", name="slice 7")
    with pytest.raises(ValueError, match="there are no cells"):
        model.embed(adata[:0], use_rep="cell")
    (folder / "cell_encoder").mkdir()
    with pytest.raises(ValueError, match="the cell encoder's vocabulary is not known"):
        official.load(folder).embed(adata)


def test_command(folder, adata, tmp_path) -> None:
    file, out = tmp_path / "slice.h5ad", tmp_path / "out.h5ad"
    adata.write_h5ad(file)
    run = ["embed", str(file), "-o", str(out), "--model", f"official:{folder}"]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1 and "counts cannot be embedded" in result.output
    result = CliRunner().invoke(app, [*run, "--use-rep", "cell", "--n-domains", "3"])
    assert result.exit_code == 0, result.output
    written = anndata.read_h5ad(out)
    assert written.obsm["X_stofm"].shape == (240, 64)
    assert written.obs["stofm_domain"].nunique() == 3
    result = CliRunner().invoke(app, [*run[:4], "--vocabulary", str(folder)])
    assert result.exit_code == 1 and "--vocabulary goes with --model official:DIR" in result.output


@pytest.mark.slow
@pytest.mark.shared
def test_golden_checkpoint_from_counts_to_embeddings(official_folder, shared_data) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.numpy import load_file

    expected = load_file(official_folder / "expected.safetensors")
    adata = anndata.read_h5ad(shared_data / "dlpfc_151673.h5ad")[:1500].copy()
    vocabulary = Vocabulary.from_pickles(shared_data.parent / "vocab")
    tokens, ptr = rank_tokens(as_counts(adata), ensembl_ids(adata), vocabulary)
    assert np.array_equal(np.diff(ptr), expected["token_lengths"])
    assert np.array_equal(tokens[: ptr[64]], expected["tokens_first64"])
    model = official.load(official_folder, vocabulary=vocabulary)
    few = adata[:100].copy()
    vectors = model.cell_encoder.transform(few)
    np.testing.assert_allclose(vectors, expected["cell_embeddings"][:100], atol=1e-5)
    made = official.subslices(
        adata.obsm["spatial"],
        expected["cell_embeddings"],
        expected["macro_positions"],
        expected["macro_features"],
    )
    rows = [subslice.n_id[subslice.n_id >= 0].numpy() for subslice in made]
    assert [len(own) for own in rows] == expected["subslice_sizes"].tolist()
    assert np.array_equal(np.concatenate(rows), expected["subslice_index"])
    made = model.embed_subslices(made, 1500)
    assert np.abs(made - expected["stofm_embeddings"]).max() < 1e-4
