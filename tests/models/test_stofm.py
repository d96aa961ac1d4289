"""The one public class: invariance, reproducibility, storage, and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from tests.helpers import SMALL, killed_at_each_call, turned

SETTINGS = {**SMALL, "cells_per_subslice": 150}


def fitted(adata, **options) -> SToFM:
    return SToFM(**SETTINGS).fit(adata, max_steps=4, progress=False, **options)


def embedded(model: SToFM, adata: AnnData, **options) -> np.ndarray:
    adata = adata.copy()
    model.embed(adata, **options)
    return adata.obsm["X_stofm"]


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    return toy_tissue(400, 60, seed=1)


@pytest.fixture(scope="module")
def model(tissue) -> SToFM:
    return fitted(tissue)


def test_embeds_in_place_and_says_how(tissue, model, tmp_path) -> None:
    adata = tissue.copy()
    model.embed(adata)
    z = adata.obsm["X_stofm"]
    assert (
        z.shape == (400, SMALL["out_channels"]) and z.dtype == np.float32 and np.isfinite(z).all()
    )
    told = adata.uns["stofm"]
    assert told["seed"] == 0 and len(told["weights_sha256"]) == 64 and told["version"]
    assert (
        told["settings"]["hidden_channels"] == SMALL["hidden_channels"]
        and "spacing" in told["units"]
    )
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert read_h5ad(tmp_path / "a.h5ad").uns["stofm"]["weights_sha256"] == told["weights_sha256"]
    assert (adata.X != tissue.X).nnz == 0


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, 2.5])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_turning_and_shifting_changes_nothing(tissue, model, angle, shift) -> None:
    moved = tissue.copy()
    moved.obsm["spatial"] = turned(tissue.obsm["spatial"], angle, (shift, -3 * shift))
    np.testing.assert_allclose(embedded(model, moved), embedded(model, tissue), atol=1e-4)


def test_turning_changes_nothing_of_a_fit_either(tissue) -> None:
    moved = tissue.copy()
    moved.obsm["spatial"] = turned(tissue.obsm["spatial"], 1.0, (5e3, 7e4))
    assert fitted(moved).weights_hash() == fitted(tissue).weights_hash()


def test_lattices_turn_too() -> None:
    side = np.arange(20.0)
    pos = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    adata = toy_tissue(400, 40, seed=2)
    adata.obsm["spatial"] = pos
    model = fitted(adata)
    z = embedded(model, adata)
    for angle in np.linspace(0.1, 6, 7):
        moved = adata.copy()
        moved.obsm["spatial"] = turned(pos, angle, (1e4, 2e5))
        np.testing.assert_allclose(embedded(model, moved), z, atol=1e-4)


def test_embedding_keeps_no_graph_of_gradients(tissue, model, monkeypatch) -> None:
    kept = []
    forward = model.network.forward

    def spy(data):
        z, pair = forward(data)
        kept.append(z.requires_grad)
        return z, pair

    monkeypatch.setattr(model.network, "forward", spy)
    model.network.train()
    embedded(model, tissue)
    assert kept and not any(kept) and not model.network.training


def test_rescaling_changes_nothing(tissue, model) -> None:
    scaled = tissue.copy()
    scaled.obsm["spatial"] = tissue.obsm["spatial"] / 1000  # micrometres to millimetres
    np.testing.assert_allclose(embedded(model, scaled), embedded(model, tissue), atol=1e-4)


def test_permuting_cells_permutes_rows_of_fit_and_embed(tissue, model) -> None:
    order = np.random.default_rng(0).permutation(400)
    shuffled = tissue[order].copy()
    z = embedded(model, tissue)
    np.testing.assert_array_equal(embedded(model, shuffled), z[order])
    np.testing.assert_array_equal(embedded(fitted(shuffled), shuffled), z[order])


def test_same_seed_same_bytes_other_seed_other_weights(tissue, model) -> None:
    assert fitted(tissue).weights_hash() == model.weights_hash()
    assert fitted(tissue, seed=1).weights_hash() != model.weights_hash()


def test_fit_leaves_the_global_random_state_alone(tissue) -> None:
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    fitted(tissue)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [sp.csc_matrix, lambda x: x.toarray(), sp.csr_array])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_any_storage_of_counts(tissue, model, make, dtype) -> None:
    other = tissue.copy()
    other.X = make(tissue.X.astype(dtype))
    np.testing.assert_array_equal(embedded(model, other), embedded(model, tissue))


def test_backed_counts(tissue, model, tmp_path) -> None:
    tissue.write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    model.embed(backed)
    np.testing.assert_array_equal(backed.obsm["X_stofm"], embedded(model, tissue))


def test_several_slices_and_files() -> None:
    one, two = toy_tissue(300, 50, 2, seed=0), toy_tissue(150, 50, seed=3)
    two = two[:, ::-1].copy()  # genes in another order
    model = fitted([one, two], slice_key="slice_id")
    assert model.training_record["slices"] == 3
    z = embedded(model, one, slice_key="slice_id")
    first = one[one.obs["slice_id"] == "slice1"].copy()
    here = (one.obs["slice_id"] == "slice1").to_numpy()
    np.testing.assert_array_equal(embedded(model, first), z[here])


def test_features_of_the_users_own(tissue) -> None:
    adata = tissue.copy()
    adata.obsm["mine"] = np.random.default_rng(0).normal(size=(400, 100)) * 50  # 3 F > out_channels
    model = fitted(adata, use_rep="mine")
    assert embedded(model, adata).shape == (400, SMALL["out_channels"])
    del adata.X
    assert embedded(model, adata).shape == (400, SMALL["out_channels"])
    with pytest.raises(KeyError, match="obsm has no 'mine'"):
        model.embed(tissue.copy())
    with pytest.raises(ValueError, match=r"trained for obsm\['mine'\], not for counts in X"):
        model.check_features(None)


def test_save_and_load(tissue, model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    files = {file.name for file in (tmp_path / "m").iterdir()}
    assert {"config.json", "model.safetensors"} <= files and not any("pt" == f[-2:] for f in files)
    again = SToFM.from_pretrained(tmp_path / "m")
    assert again.weights_hash() == model.weights_hash() and again.config == model.config
    np.testing.assert_array_equal(embedded(again, tissue), embedded(model, tissue))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: (m / "config.json").unlink(), "has no config.json"),
        (lambda m: (m / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda m: (m / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda m: (m / "config.json").write_text("{}"), "is not the configuration of a stofm_geo"),
        (lambda m: (m / "model.safetensors").write_bytes(b"x" * 99), "cannot be read as safetens"),
    ],
)
def test_damaged_models_are_refused(model, tmp_path, spoil, message) -> None:
    model.save_pretrained(tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(ValueError, match=message):
        SToFM.from_pretrained(tmp_path / "m")


def test_weights_of_another_architecture_are_refused(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    config["settings"]["num_layers"] = 3
    del config["config_sha256"]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not make a model"):
        SToFM.from_pretrained(tmp_path / "m")


def test_other_genes_are_refused_few_missing_are_not(tissue, model) -> None:
    other = tissue.copy()
    other.var_names = [f"X{name}" for name in other.var_names]
    with pytest.raises(ValueError, match=r"the model knows 60 genes .* has 0; .* another panel"):
        model.embed(other)
    with pytest.warns(UserWarning, match="10 of the model's 60 genes are missing"):
        model.embed(tissue[:, 10:].copy())


def test_a_missing_gene_that_no_cell_has_changes_nothing(tissue) -> None:
    """The counts of another gene must not stand in for those of a missing one."""
    silent = tissue.copy()
    silent.X = sp.csr_matrix(silent.X.toarray() * (np.arange(60) > 2))
    model = fitted(silent)
    expected = embedded(model, silent)
    with pytest.warns(UserWarning, match="3 of the model's 60 genes are missing"):
        found = embedded(model, silent[:, 3:].copy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_slice_without_some_genes_is_embedded_near_the_whole_one(tissue, model) -> None:
    expected = embedded(model, tissue)
    error = []
    for missing in (4, 15):
        with pytest.warns(UserWarning, match=f"{missing} of the model's 60 genes are missing"):
            found = embedded(model, tissue[:, : 60 - missing].copy())
        error.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert error[0] < error[1] < 0.55  # .57 where counts of another gene stood in


@pytest.mark.parametrize("n", [0, 1, 2, 3, 12])
def test_too_few_cells(tissue, model, n) -> None:
    with pytest.raises(ValueError, match=r"there are no cells|too few for a tissue graph"):
        model.embed(tissue[:n].copy())


def test_just_enough_cells_and_cells_at_one_place(tissue, model) -> None:
    few = tissue[:13].copy()
    assert np.isfinite(embedded(model, few)).all()
    few.obsm["spatial"][:] = 1.0
    with pytest.raises(ValueError, match="all 13 cells are at one place"):
        model.embed(few)


def test_duplicates_and_empty_cells_do(tissue, model) -> None:
    odd = tissue.copy()
    odd.obsm["spatial"][:30] = odd.obsm["spatial"][30:60]
    odd.X[5] = 0
    with pytest.warns(UserWarning, match="1 of 400 cells have no counts"):
        assert np.isfinite(embedded(model, odd)).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"heads": 3}, ValueError, "hidden_channels=128 must be a multiple of heads=3"),
        ({"k": 0}, ValueError, "k must be above zero"),
        ({"k": 2.5}, TypeError, "k must be a whole number"),
        ({"mask_ratio": 2}, ValueError, "mask_ratio must be a fraction"),
        ({"layers": 3}, TypeError, "layers"),
    ],
)
def test_bad_settings(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        SToFM(**settings)


def test_not_fitted(tissue) -> None:
    with pytest.raises(RuntimeError, match="call fit"):
        SToFM().embed(tissue.copy())


@pytest.mark.slow
@pytest.mark.shared
def test_real_lattice_does_not_notice_rotation(shared_data) -> None:
    adata = read_h5ad(shared_data / "dlpfc_151673.h5ad")
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(np.float64)
    model = SToFM(num_layers=2, hidden_channels=32).fit(adata, max_steps=3, progress=False)
    z = embedded(model, adata)
    for angle in (0.7, 4.0):
        moved = adata.copy()
        moved.obsm["spatial"] = turned(adata.obsm["spatial"], angle, (-1e5, 3e4))
        np.testing.assert_allclose(embedded(model, moved), z, atol=1e-4)


@pytest.mark.slow
def test_saving_over_a_model_survives_a_kill_and_keeps_other_files(tissue, model, tmp_path) -> None:
    old, folder = fitted(tissue, seed=1), tmp_path / "m"
    hashes = {old.weights_hash(), model.weights_hash()}
    old.save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "notes.txt").write_text("mine")

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)

    seen = set()
    for _ in killed_at_each_call(lambda: model.save_pretrained(folder), prepare):
        seen.add(SToFM.from_pretrained(folder).weights_hash())
        assert (folder / "notes.txt").read_text() == "mine"
    assert seen == hashes


def test_same_weights_are_the_same_bytes_with_usual_rights(model, tmp_path) -> None:
    contents = set()
    for i in range(8):  # two entries of metadata would come in another order in some of them
        model.save_pretrained(tmp_path / f"m{i}")
        files = sorted((tmp_path / f"m{i}").iterdir())
        contents.add(tuple(file.read_bytes() for file in files if file.name != "README.md"))
        (tmp_path / "plain").touch()
        assert {file.stat().st_mode for file in files} == {(tmp_path / "plain").stat().st_mode}
    assert len(contents) == 1


@pytest.mark.parametrize("flip", [lambda p: p[:, ::-1], lambda p: p * [1, -1], lambda p: p * 1e6])
def test_swapped_axes_y_of_images_and_nanometres_change_nothing(tissue, model, flip) -> None:
    moved = tissue.copy()
    moved.obsm["spatial"] = flip(tissue.obsm["spatial"])
    np.testing.assert_allclose(embedded(model, moved), embedded(model, tissue), atol=1e-4)


def test_the_order_of_genes_does_not_matter_to_a_model(tissue, model) -> None:
    mixed = tissue[:, np.random.default_rng(0).permutation(tissue.n_vars)].copy()
    np.testing.assert_array_equal(embedded(model, mixed), embedded(model, tissue))


def test_embeddings_replace_nothing_that_they_are_made_of(tissue) -> None:
    adata = tissue.copy()
    adata.obsm["X_pca"] = tissue.X[:, :8].toarray().astype(np.float32)
    model = fitted(adata, use_rep="X_pca")
    for key, what in (("X_pca", "use_rep"), ("spatial", "spatial_key")):
        with pytest.raises(ValueError, match=f"key_added is '{key}', as is {what}, whose values"):
            model.embed(adata, key_added=key)


def test_a_part_of_a_backed_file_is_refused_before_the_work(tissue, model, tmp_path) -> None:
    tissue.write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"backed file.*adata = adata.to_memory\(\)"):
        model.embed(backed[:300])
    model.embed(part := backed[:300].to_memory())
    assert np.isfinite(part.obsm["X_stofm"]).all()
    backed.file.close()


def test_a_model_says_what_it_is() -> None:
    assert repr(SToFM()) == "SToFM(encoder='pca', not fitted)"
    model = SToFM.from_pretrained("stofm-geo-mini")
    assert repr(model) == f"SToFM(encoder='panel', weights {model.weights_hash()[:12]})"


def test_an_unknown_option_is_named_beside_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"SToFM has no option 'layers'; it has .*num_layers"):
        SToFM(layers=3)
