"""Labels across studies: common names, human genes, and frequencies of classes that differ."""

from __future__ import annotations

import numpy as np
import pytest

from stofm_geo import SToFM
from stofm_geo.benchmark import DATASETS, TASKS
from stofm_geo.benchmark.common_labels import CELL_TYPES, LAYERS
from stofm_geo.benchmark.problems import check_leak_free
from stofm_geo.benchmark.stofm_models import untrained
from stofm_geo.benchmark.transfer_models import class_frequencies, nearest_centroid, solve

LAYER_NAMES = {"L1", "L2/3", "L4", "L5", "L6", "WM"}


def test_frequencies_of_classes_are_found() -> None:
    random = np.random.default_rng(0)
    frequency = np.array([0.7, 0.2, 0.1])
    label = random.choice(3, 20_000, p=frequency)
    x = random.normal(label, 0.7)
    likelihood = np.exp(-np.square(x[:, None] - np.arange(3)) / (2 * 0.7**2))
    probability = likelihood / likelihood.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(class_frequencies(probability), frequency, atol=0.02)
    np.testing.assert_allclose(class_frequencies(np.eye(3)[label]).round(2), frequency, atol=0.01)


def test_each_pair_of_slices_is_a_problem() -> None:
    slices = DATASETS["toy"].read(None)
    splits = list(TASKS["transfer"].splits(slices, "toy"))
    assert [split.name for split in splits] == ["slice1 to slice2", "slice2 to slice1"]
    problem, score = splits[0].make()
    check_leak_free(problem)
    (train,), (test,) = problem.train, problem.test
    assert set(train.obs["group"]) == {"slice1"} and set(test.obs["group"]) == {"slice2"}
    found = score(solve(problem, 0, nearest_centroid, shift=False)[0])
    assert found["macro_f1"] > 0.6  # of 4 regions


def test_a_label_that_training_lacks_is_not_scored() -> None:
    slices = DATASETS["toy"].read(None)
    region = slices["slice1"].obs["region"].astype(str)
    lacking = sorted(set(region))[0]
    slices["slice1"].obs["region"] = region.where(region != lacking)
    (split, _) = TASKS["transfer"].splits(slices, "toy")
    problem, _ = split.make()
    of_test = slices["slice2"].obs["region"].astype(str).to_numpy()
    assert lacking not in problem.names
    np.testing.assert_array_equal(problem.scored_mask[0], of_test != lacking)


@pytest.mark.shared
def test_studies_have_human_genes_and_common_names(shared_data) -> None:
    for dataset, tables, key in (
        ("layers", LAYERS, "region"),
        ("brain_cells", CELL_TYPES, "cell_type"),
    ):
        slices = DATASETS[dataset].read(shared_data)
        assert list(slices) == list(tables)
        for study, adata in slices.items():
            assert adata.var_names.str.startswith("ENSG").all()
            # Each name of the table is one that the study has.
            assert set(adata.obs[key].dropna()) == set(tables[study].values())
            raw = next(iter(DATASETS[study].read(shared_data).values())).obs[key].dropna()
            assert set(tables[study]) <= set(raw)
    assert {name for table in LAYERS.values() for name in table.values()} == LAYER_NAMES


def test_an_untrained_model_depends_on_the_seed_alone() -> None:
    model = SToFM.from_pretrained("stofm-geo-mini")
    hashes = [untrained(model, seed).weights_hash() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
