"""The task of held-out molecules: what is seen, what is scored, and a planted leak."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo.benchmark import DATASETS, TASKS
from stofm_geo.benchmark.molecule_models import averages, best_rank, mean, shrunken
from stofm_geo.benchmark.molecules import SHARE, ErrorAxes
from stofm_geo.benchmark.problems import check_leak_free


@pytest.fixture(scope="module")
def problem_and_score():
    slices = DATASETS["toy"].read(None)
    (split,) = TASKS["molecules"].splits(slices, "toy")
    return split.make(), next(iter(slices.values()))


def test_what_is_held_out_is_not_there(problem_and_score) -> None:
    (problem, score), whole = problem_and_score
    (adata,), held_out = problem.test, score.args[1]
    counts = sp.csr_matrix(whole[:, problem.names].X)
    assert ((sp.csr_matrix(adata.X) + held_out) != counts).nnz == 0
    assert held_out.sum() / counts.sum() == pytest.approx(SHARE, abs=0.01)
    assert problem.molecules == [int(counts.sum())] and list(adata.obs) == ["group"]
    check_leak_free(problem)


def test_a_planted_leak_is_caught(problem_and_score) -> None:
    (problem, score), _ = problem_and_score
    (adata,) = problem.test
    leaky = adata.copy()
    leaky.X = sp.csr_matrix(adata.X) + score.args[1]
    planted = type(problem)("molecules", [], [leaky], problem.names, molecules=problem.molecules)
    with pytest.raises(ValueError, match="split leaks: a test slice has 100% of its molecules"):
        check_leak_free(planted)
    # And how it would look: a model that copies what it is given seems to know.
    total = np.maximum(np.asarray(leaky.X.sum(axis=1)), 1)
    copied = score([leaky.X.toarray() / total])
    honest = score([adata.X.toarray() / np.maximum(np.asarray(adata.X.sum(axis=1)), 1)])
    assert copied["error"] < honest["error"]


def test_scores_of_the_mean_and_of_the_truth(problem_and_score) -> None:
    (problem, score), _ = problem_and_score
    found = score(mean(problem, 0)[0])
    assert found["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert found["explained_deviance"] == pytest.approx(0, abs=1e-6)
    held_out = score.args[1].toarray()
    perfect = score([held_out / np.maximum(held_out.sum(axis=1, keepdims=True), 1)])
    assert perfect["explained_deviance"] == pytest.approx(1, abs=1e-6)
    assert perfect["explained_variance"] > 0.8


def test_the_truth_has_no_excess() -> None:
    slices = DATASETS["toy"].read(None)
    (split,) = TASKS["molecules"].splits(slices, "toy")
    problem, score = split.make()
    (adata,), held_out = problem.test, score.args[1]
    # Held-out molecules drawn anew from fractions that are known.
    total = np.asarray(sp.csr_matrix(adata.X).sum(axis=1)).ravel() * SHARE / (1 - SHARE)
    true = shrunken(problem, 0)[0][0].astype(float)
    drawn = np.random.default_rng(0).poisson(true * total[:, None])
    found = score.func(problem, sp.csr_matrix(drawn.astype(np.float32)), [true])
    assert abs(found["excess"]) < 0.05 * found["error"]
    assert score(mean(problem, 0)[0])["excess"] > 0.1 * score(mean(problem, 0)[0])["error"]
    assert held_out.shape == drawn.shape


@pytest.mark.parametrize("solve", [best_rank, shrunken, lambda *a: averages(*a, of="space")])
def test_baselines_are_ahead_of_the_mean(problem_and_score, solve) -> None:
    (problem, score), _ = problem_and_score
    found = score(solve(problem, 0)[0])
    assert found["explained_variance"] > 0.1 and found["explained_deviance"] > 0


def test_axes_against_dense_matrices() -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(random.gamma(1, 2, (50, 12))).astype(float)
    total = counts.sum(axis=1)
    axes = ErrorAxes(sp.csr_matrix(counts), total)
    rows = counts / total[:, None] / np.sqrt(counts.sum(axis=0) / counts.sum())
    found = axes(sp.csr_matrix(counts), total)
    np.testing.assert_allclose(found, axes(counts, total), atol=1e-9)
    assert found.std() == pytest.approx(1) and found.shape == (50, 11)
    _, _, axes_of_rows = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = (rows - rows.mean(axis=0)) @ axes_of_rows[:11].T
    np.testing.assert_allclose(np.abs(found * axes.scale), np.abs(expected), atol=1e-6)
