"""Labels learned, kept, predicted and scored; what is refused."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad

from stofm_geo import SToFM, tl
from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks import Annotator, fine_tune
from stofm_geo.tasks.splits import contiguous_blocks
from tests.helpers import SMALL, turned

SETTINGS = {**SMALL, "cells_per_subslice": 150}
QUICK = dict(progress=False, max_steps=4)


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    return toy_tissue(800, 80, 2, seed=1)


@pytest.fixture(scope="module")
def first(tissue) -> AnnData:
    return tissue[tissue.obs["slice_id"] == "slice1"].copy()


@pytest.fixture(scope="module")
def second(tissue) -> AnnData:
    return tissue[tissue.obs["slice_id"] == "slice2"].copy()


@pytest.fixture(scope="module")
def model(first) -> SToFM:
    return SToFM(**SETTINGS).fit(first, max_steps=4, progress=False)


@pytest.fixture(scope="module")
def annotator(model, first) -> Annotator:
    return fine_tune(model, first, "region", progress=False)


@pytest.mark.parametrize(("task", "least"), [("region", 0.6), ("cell_type", 0.4)])
def test_a_slice_never_seen_is_labelled(model, annotator, first, second, task, least) -> None:
    found = annotator
    if task != "region":
        found = fine_tune(model, first, task, task=task, progress=False)
    adata = second.copy()
    assert found.predict(adata) is None
    label, p = adata.obs["stofm_label"], adata.obsm["stofm_label_probability"]
    assert list(label.cat.categories) == sorted(first.obs[task].unique())
    assert p.shape == (400, len(found.classes)) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert (label == adata.uns["stofm_label"]["classes"][p.argmax(axis=1)]).all()
    assert (label.astype(str) == adata.obs[task].astype(str)).mean() > least
    assert (adata.X != second.X).nnz == 0


@pytest.mark.parametrize("method", ["mlp", "lora", "full"])
def test_learning_leaves_the_model_as_it_is(model, first, second, method) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    before = model.weights_hash()
    found = fine_tune(model, first, "region", method, **QUICK)
    assert model.weights_hash() == before and not found.training
    assert found.record["method"] == method and 0 <= found.record["steps"] <= QUICK["max_steps"]
    again = fine_tune(model, first, "region", method, **QUICK)
    np.testing.assert_array_equal(found.probabilities(second), again.probabilities(second))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_changes_the_network_and_merges(model, first, monkeypatch, method) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    from stofm_geo.training import finetune

    monkeypatch.setattr(finetune, "_LEAST_GAIN", -9.0)  # whatever comes of it
    found = fine_tune(model, first, "region", method, **QUICK)
    assert found.record["steps"] > 0
    names = {*found.model.network.state_dict()}
    assert names == {*model.network.state_dict()}
    assert found.model.weights_hash() != model.weights_hash()


def test_a_hidden_layer_learns_and_is_saved(model, first, second, tmp_path) -> None:
    found = fine_tune(model, first, "region", "mlp", progress=False)
    assert found.evaluate(second, "region")["accuracy"] > 0.7
    assert found.record["held_out"]["accuracy"] > 0.6 < found.record["held_out_before"]["accuracy"]
    assert 0 <= found.record["hidden_share"] <= 1
    found.save(tmp_path / "a")
    again = Annotator.load(tmp_path / "a")
    np.testing.assert_array_equal(found.probabilities(second), again.probabilities(second))


def test_saved_and_loaded_it_says_the_same(annotator, second, tmp_path) -> None:
    annotator.save(tmp_path / "a")
    annotator.save(tmp_path / "a")  # replaced whole
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again = Annotator.load(tmp_path / "a")
    assert again.classes == annotator.classes and again.record == annotator.record
    np.testing.assert_array_equal(again.probabilities(second), annotator.probabilities(second))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["version"] and config["model"]["features"]["genes"]


def test_what_is_no_annotator_is_refused(annotator, model, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json and no model\.safetensors"):
        Annotator.load(tmp_path)
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="a model without a classifier; fine-tune it"):
        Annotator.load(tmp_path / "m")
    annotator.save(tmp_path / "a")
    with pytest.raises(ValueError, match="it is an annotator; load it with"):
        SToFM.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt"):
        annotator.save(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        Annotator.load(tmp_path / "a")


def test_a_prediction_survives_writing(annotator, second, tmp_path) -> None:
    adata = second.copy()
    annotator.predict(adata, key_added="layer", min_probability=0.9)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = read_h5ad(tmp_path / "a.h5ad")
    assert back.uns["layer"]["min_probability"] == 0.9
    assert (back.obs["layer"] == adata.obs["layer"]).all()


def test_unsure_is_said_where_the_best_is_improbable(annotator, second) -> None:
    adata = second.copy()
    annotator.predict(adata, min_probability=0.9)
    best = adata.obsm["stofm_label_probability"].max(axis=1)
    assert ((adata.obs["stofm_label"] == "unassigned") == (best < 0.9)).all()
    assert 0 < (best < 0.9).sum() < len(best)
    with pytest.raises(ValueError, match="min_probability must be a fraction"):
        annotator.predict(adata, min_probability=2)


def test_pose_and_order_do_not_matter(annotator, second) -> None:
    order = np.random.default_rng(0).permutation(second.n_obs)
    other = second[order].copy()
    other.obsm["spatial"] = 7 * turned(other.obsm["spatial"], 1.0, 1e4)
    np.testing.assert_allclose(
        annotator.probabilities(other), annotator.probabilities(second)[order], atol=1e-4
    )


def test_a_part_of_a_tissue_is_not_read_as_a_whole_one(annotator, second) -> None:
    right = []
    for region in ("L1", "L2", "Lesion"):  # 65 cells and more of each
        part = second[second.obs["region"] == region].copy()
        annotator.predict(part)
        right.append((part.obs["stofm_label"] == region).mean())
    assert min(right) > 0.8  # 0.15 to 0.33, standardised by the part's own mean


def test_some_labels_are_enough_and_several_slices_do(tissue, first, second, model) -> None:
    adata = tissue.copy()
    adata.obs["region"] = adata.obs["region"].astype(object)
    adata.obs.iloc[::3, adata.obs.columns.get_loc("region")] = np.nan
    found = fine_tune(model, adata, "region", slice_key="slice_id", progress=False)
    assert found.absolute and found.record["slices"] == 2
    assert found.record["labelled_cells"] == 533
    two = fine_tune(model, [first, second], "region", progress=False)
    assert two.record["labelled_cells"] == 800


def test_scores(annotator, second) -> None:
    told = annotator.evaluate(second, "region")
    assert 0.5 < told["accuracy"] <= 1 and set(told["f1"]) == set(second.obs["region"].unique())
    assert np.isclose(told["macro_f1"], np.mean([*told["f1"].values()]))
    assert 0 <= told["calibration_error"] < 0.3 and told["unknown"] == []
    assert 0.5 < told["coherence_of_truth"] <= 1 and 0.5 < told["coherence"] <= 1


def test_labels_never_learned_count_as_wrong(annotator, second) -> None:
    other = second.copy()
    other.obs["region"] = other.obs["region"].astype(str).replace("L1", "Elsewhere")
    with pytest.warns(
        UserWarning, match=r"1 of the labels are not classes of the model \(Elsewhere\)"
    ):
        told = annotator.evaluate(other, "region")
    assert told["unknown"] == ["Elsewhere"] and told["f1"]["Elsewhere"] == 0
    assert told["accuracy"] < annotator.evaluate(second, "region")["accuracy"]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda a: a.obs.pop("region"), KeyError, r"obs has no 'region' \(labels\)"),
        (
            lambda a: a.obs.__setitem__("region", np.nan),
            ValueError,
            r"obs\['region'\] is missing for all 400 cells",
        ),
        (
            lambda a: a.obs.__setitem__("region", "L1"),
            ValueError,
            r"obs\['region'\] has only one label, 'L1'",
        ),
        (
            lambda a: a.obs.__setitem__("region", np.where(np.arange(400) < 9, "unassigned", "L1")),
            ValueError,
            "has a label 'unassigned'",
        ),
        (
            lambda a: a.obs.__setitem__("region", np.linspace(0, 1, 400)),
            ValueError,
            r"has 400 different labels for 400 cells \(.*name a column of classes",
        ),
        (
            lambda a: a.obs.__setitem__("region", ""),
            ValueError,
            "is missing for all 400 cells",
        ),
    ],
)
def test_labels_that_do_not_do(model, first, spoil, error, message) -> None:
    adata = first.copy()
    spoil(adata)
    with pytest.raises(error, match=message):
        fine_tune(model, adata, "region", progress=False)


def test_slices_that_do_not_fit_are_refused(annotator, second) -> None:
    other = second.copy()
    other.var_names = [f"X{name}" for name in other.var_names]
    with pytest.raises(ValueError, match=r"^b.h5ad: the model .* another panel or another kind of"):
        annotator.predict(other, name="b.h5ad")
    assert "stofm_label" not in other.obs
    with pytest.raises(KeyError, match="no 'nothing'"):
        annotator.evaluate(second, "nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="magic"), "method must be 'probe', 'mlp', 'lora', 'full'; found 'magic'"),
        (dict(task="tissue"), "task must be 'region' or 'cell_type'; found 'tissue'"),
        (dict(validation_fraction=0), "validation_fraction must be above zero"),
        (dict(validation_fraction=0.9), "validation_fraction must be at most 0.5"),
        (dict(max_steps=0), "max_steps must be above zero"),
        (dict(seed=-1), "seed must be zero or more"),
    ],
)
def test_bad_options(model, first, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tune(model, first, "region", **{"progress": False, **options})


def test_without_peft_lora_says_what_to_install(model, first, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'stofm-geo\[finetune\]'"):
        fine_tune(model, first, "region", "lora")


def test_a_panel_model_labels_another_panel(first, second) -> None:
    model = SToFM(**SETTINGS, encoder="panel").fit(first, max_steps=2, progress=False)
    found = fine_tune(model, first, "region", "full", progress=False, max_steps=10)
    adata = second[:, 20:].copy()
    found.predict(adata)
    assert (adata.obs["stofm_label"].astype(str) == adata.obs["region"].astype(str)).mean() > 0.3
    with pytest.raises(ValueError, match="the encoder knows"):
        other = second.copy()
        other.var_names = [f"X{name}" for name in other.var_names]
        found.predict(other)


def test_what_is_held_out_leaves_two_labels(model, first) -> None:
    block = contiguous_blocks(first.obsm["spatial"], 50)  # as they are cut of 400 cells
    adata = first.copy()
    adata.obs["region"] = np.select([block < 2, block == 2], ["a", "b"], "")
    for seed in range(3):  # of 3 blocks, the first drawn may be the only one of its label
        found = fine_tune(model, adata, "region", "full", seed=seed, **QUICK)
        assert found.classes == ["a", "b"]
    adata.obs.loc[block == 1, "region"] = ""
    with pytest.raises(ValueError, match="leaves a single label"):
        fine_tune(model, adata, "region", "full", **QUICK)


@pytest.mark.parametrize(
    ("reference", "options", "error", "message"),
    [
        (
            None,
            dict(steps=3),
            TypeError,
            "unknown option steps; options are method, validation_fraction",
        ),
        (None, dict(method="magic"), ValueError, "method must be"),
        (None, dict(task="tissue"), ValueError, "task must be"),
        (None, dict(min_probability=2), ValueError, "min_probability must be a fraction"),
        ([], {}, ValueError, "reference is an empty list"),
        ("folder", {}, TypeError, "reference: an AnnData is needed; found str"),
    ],
)
def test_bad_options_are_found_before_the_fit(
    first, second, monkeypatch, reference, options, error, message
) -> None:
    monkeypatch.setattr(SToFM, "fit", None)
    with pytest.raises(error, match=message):
        tl.annotate(second, first if reference is None else reference, "region", **options)


def test_one_call_from_reference_to_labels(first, second, annotator, monkeypatch) -> None:
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k, max_steps=2))
    adata = second[:, 10:].copy()
    assert tl.annotate(adata, first, "region", key_added="layer", progress=False) is None
    assert (adata.obs["layer"].astype(str) == adata.obs["region"].astype(str)).mean() > 0.5
    other = second.copy()
    tl.annotate(other, annotator)
    assert "stofm_label" in other.obs
    with pytest.raises(ValueError, match="leave out label_key"):
        tl.annotate(other, annotator, "region")
    with pytest.raises(KeyError, match="reference: obs has no 'nothing'"):
        tl.annotate(other, first, "nothing")


@pytest.mark.shared
def test_real_cell_types_by_a_block_of_tissue(shared_data) -> None:
    adata = read_h5ad(shared_data / "starmap_visp_1020.h5ad")
    left = adata.obsm["spatial"][:, 1] < np.median(adata.obsm["spatial"][:, 1])
    model = SToFM(**SETTINGS).fit(adata, max_steps=2, progress=False)
    found = fine_tune(model, adata[left].copy(), "cell_type", task="cell_type", progress=False)
    assert found.evaluate(adata[~left].copy(), "cell_type")["accuracy"] > 0.5


@pytest.mark.slow
def test_classes_are_the_same_as_integers_floats_and_text(model, first, second) -> None:
    number = {name: i for i, name in enumerate(sorted(first.obs["region"].unique()))}
    whole = first.obs["region"].astype(str).map(number)
    first, second = first.copy(), second.copy()
    first.obs["layer"] = whole.astype(int)
    second.obs["layer"] = second.obs["region"].astype(str).map(number).astype(float)
    second.obs.iloc[0, second.obs.columns.get_loc("layer")] = np.nan
    found = fine_tune(model, [first, second], "layer", progress=False)
    assert found.classes == [str(i) for i in range(len(number))]
    named = fine_tune(model, [first, second], "region", progress=False)
    scores = found.evaluate(second, "layer")
    assert scores["unknown"] == [] and scores["cells"] == 399
    assert scores["accuracy"] > 0.9 < named.evaluate(second, "region")["accuracy"]


def test_missing_labels_as_text_are_no_class(model, first, second) -> None:
    hide = np.random.default_rng(0).random(400) < 0.4
    first = first.copy()
    first.obs["missing"] = first.obs["region"].astype(object).where(~hide)
    first.obs["text"] = first.obs["missing"].astype(str)
    expected = fine_tune(model, first, "missing", progress=False)
    with pytest.warns(UserWarning, match=rf"\('nan' {hide.sum()}\)"):
        found = fine_tune(model, first, "text", progress=False)
    assert found.classes == expected.classes and "nan" not in found.classes
    assert found.record["labelled_cells"] == 400 - hide.sum()
    np.testing.assert_array_equal(found.probabilities(second), expected.probabilities(second))
    with pytest.warns(UserWarning, match="'nan'"):
        scores = found.evaluate(first, "text")
    assert scores == expected.evaluate(first, "missing") and scores["cells"] == 400 - hide.sum()


def test_labels_with_slashes_are_saved_and_read_again(model, first, second, tmp_path) -> None:
    labelled, adata = first.copy(), second.copy()
    regions = sorted(first.obs["region"].unique())
    new = {regions[0]: "L2", regions[1]: "L2/3"}
    labelled.obs["layer"] = labelled.obs["region"].astype(str).replace(new).to_numpy()
    annotator = fine_tune(model, labelled, "layer", progress=False)
    annotator.save(tmp_path / "m")
    Annotator.load(tmp_path / "m").predict(adata)
    adata.write_h5ad(tmp_path / "out.h5ad")
    read = read_h5ad(tmp_path / "out.h5ad")
    assert list(read.obs["stofm_label"]) == list(adata.obs["stofm_label"])
    assert {"L2", "L2/3"} <= set(read.uns["stofm_label"]["classes"])


def test_the_users_random_numbers_go_on(annotator, model, first, second, tmp_path) -> None:
    annotator.save(tmp_path / "labels")
    model.save_pretrained(tmp_path / "model")

    def state() -> tuple:
        of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), of_numpy, random.getstate()

    before = state()
    for method in ("probe", "mlp", "full"):
        fine_tune(model, first, "region", method, **QUICK)
    SToFM.from_pretrained(tmp_path / "model").embed(first.copy())
    Annotator.load(tmp_path / "labels").predict(second.copy())
    assert state() == before


def test_a_class_of_one_cell_does(model, first) -> None:
    adata = first.copy()
    adata.obs["cell_type"] = np.where(np.arange(400) == 7, "single", adata.obs["cell_type"])
    annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
    assert "single" in annotator.classes and annotator.record["held_out"]["cells"] == 400


def test_columns_called_by_numbers_are_listed(model, first) -> None:
    adata = first.copy()
    adata.obs[0] = 1
    with pytest.raises(KeyError, match=r"obs has no 'layer' \(labels\); it has \['0', 'cell_type'"):
        fine_tune(model, adata, "layer")
    with pytest.raises(KeyError, match=r"obs has no 'batch'; it has \['0', 'cell_type'"):
        model.embed(adata, slice_key="batch")


def test_labels_do_not_replace_slices(annotator, second) -> None:
    with pytest.raises(ValueError, match="key_added is 'slice_id', as is slice_key"):
        annotator.predict(second, key_added="slice_id", slice_key="slice_id")
