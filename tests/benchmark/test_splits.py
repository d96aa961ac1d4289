"""Splits that say they are apart are, of toy and real slices; planted leaks are caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stofm_geo.benchmark import DATASETS, TASKS, check_leak_free, leaks
from stofm_geo.benchmark.problems import GROUP, LABEL, Problem
from stofm_geo.benchmark.splits import (
    labels_of,
    leave_blocks_out,
    random_cells,
    with_labels,
    without_labels,
)

LABELS = [(task, data) for task in ("regions", "cell_types") for data in TASKS[task].datasets]


def check(task: str, dataset: str, folder: Path | None) -> None:
    splits = list(TASKS[task].splits(DATASETS[dataset].read(folder), dataset))
    assert len({split.name for split in splits}) == len(splits)
    again, _ = splits[0].make()
    assert again.digest() == splits[0].make()[0].digest()  # splits are fixed
    for split in splits:
        problem, score = split.make()
        check_leak_free(problem)
        if "random" in split.name:
            assert not problem.leak_free and leaks(problem) > 0.9 * problem.scored_mask[0].sum()
        else:
            assert problem.leak_free
        for part in (*problem.train, *problem.test):
            assert not set(part.obs) - {GROUP, LABEL}
        assert all(LABEL not in part.obs for part in problem.test)
        answers = [np.full(part.n_obs, problem.names[0], object) for part in problem.test]
        assert 0 <= score(answers)["accuracy"] < 1


@pytest.mark.parametrize("task", ["regions", "cell_types"])
def test_toy(task) -> None:
    check(task, "toy", None)


@pytest.mark.shared
@pytest.mark.parametrize(("task", "dataset"), [one for one in LABELS if one[1] != "toy"])
def test_real_slices(task, dataset, shared_data) -> None:
    check(task, dataset, shared_data)


@pytest.fixture
def part():
    return DATASETS["toy"].read(None)["slice1"]


def test_planted_leaks_are_caught(part) -> None:
    label = labels_of(part, "region")
    random, _ = random_cells(part, "region")
    random.leak_free = True  # which it is not
    with pytest.raises(ValueError, match="the split leaks: 1 groups are in training and in test"):
        check_leak_free(random)
    # Groups that differ, as if each cell were its own: the neighbours tell.
    for one in (*random.train, *random.test):
        one.obs[GROUP] = one.obs_names
    random.train[0].obs.loc[random.train[0].obs[LABEL].isna(), GROUP] = "hidden"
    with pytest.raises(ValueError, match="test cells have a training cell within 3 edges"):
        check_leak_free(random)
    # A cell that is shown and asked.
    rows = np.arange(part.n_obs)
    both = Problem(
        "classes",
        [with_labels(part, label, rows[:300])],
        [without_labels(part, rows[299:])],
        ["L1"],
    )
    assert leaks(both) >= 1


def test_blocks_are_whole(part) -> None:
    seen = []
    for fold in range(3):
        problem, truth = leave_blocks_out(part, "region", fold)
        train, test = problem.train[0].obs[GROUP], problem.test[0].obs[GROUP]
        assert not set(train) & set(test)
        assert len(truth[0]) == len(test)
        seen += list(problem.test[0].obs_names)
    assert sorted(seen) == sorted(part.obs_names)
