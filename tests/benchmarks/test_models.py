"""Every model answers every problem of its kinds; all that are trained have the same size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stofm_geo import SToFM
from stofm_geo.benchmarks import DATASETS, MODELS, TASKS, trained
from stofm_geo.benchmarks.graphs import graphs
from stofm_geo.benchmarks.problems import LABEL
from stofm_geo.benchmarks.scoring import MAIN
from stofm_geo.benchmarks.trained import Net, Trained, count, width_of
from stofm_geo.benchmarks.worker import run_files

ROOT = Path(__file__).parents[2]
TASK = {"classes": "cell_types", "vectors": "domains", "shares": "deconvolution"}
TASK["values"] = "imputation"


@pytest.fixture(scope="module")
def problems():
    slices = DATASETS["toy"].read(None)
    return {kind: next(TASKS[TASK[kind]].cases(slices, "toy")).make() for kind in MAIN}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(trained, "STEPS", 10)
    monkeypatch.setattr(trained, "PARAMETERS", 5000)
    fit, tune = SToFM.fit, SToFM.fine_tune
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **(k | {"max_steps": 2})))
    monkeypatch.setattr(SToFM, "fine_tune", lambda *a, **k: tune(*a, **(k | {"max_steps": 2})))


def test_what_a_model_sees_has_no_truth(problems) -> None:
    for kind, (problem, _) in problems.items():
        for part in problem.test:
            assert LABEL not in part.obs
            if kind == "values":
                assert not set(part.var_names) & set(problem.names)


TRAINED = [name for name, model in MODELS.items() if isinstance(model.solve, Trained)]
OTHERS = [
    (name, kind)
    for name, model in MODELS.items()
    for kind in model.kinds
    if name not in TRAINED and not model.needs and name != "stofm-geo-mini"
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*OTHERS, *((name, "classes") for name in TRAINED), *(("GCN", kind) for kind in MAIN)],
)
def test_answers(problems, name, kind) -> None:
    problem, score = problems[kind]
    answers, _ = MODELS[name].solve(problem, 0)
    scores = score(answers)
    assert np.isfinite(list(scores.values())).all() and MAIN[kind][0] in scores


def test_the_example_registers_a_layer_that_answers(problems, monkeypatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    run_files([ROOT / "examples" / "benchmark_own_layer.py"])
    run_files([ROOT / "examples" / "benchmark_own_layer.py"])  # once is enough
    problem, score = problems["vectors"]
    answers, record = MODELS["Nearness"].solve(problem, 0)
    assert score(answers)["ari"] > 0 and record["parameters"] > 1000


def test_files_that_are_none_are_told(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for name in ("a.txt", "b.py"):
        with pytest.raises(FileNotFoundError, match=f"{name}: is no Python file"):
            run_files([tmp_path / name])


def test_a_model_of_real_genes_says_so(problems) -> None:
    problem, _ = problems["vectors"]
    with pytest.raises(ValueError, match="Ensembl"):
        MODELS["stofm-geo-mini"].solve(problem, 0)


@pytest.mark.parametrize("name", TRAINED)
def test_sizes_are_the_same(name, monkeypatch) -> None:
    monkeypatch.undo()
    body = MODELS[name].solve.body
    net = Net(body, (30, 7), width_of(body, (30, 7)))
    assert abs(count(net) / trained.PARAMETERS - 1) < 0.06


def test_a_seed_gives_the_same_answers(problems) -> None:
    problem, _ = problems["classes"]
    one, two, other = (MODELS["SE2Transformer"].solve(problem, seed)[0][0] for seed in (0, 0, 1))
    assert (one == two).all() and (one != other).any()


def test_graphs_keep_test_cells_and_labels_out(problems) -> None:
    problem, _ = problems["classes"]
    data = graphs(problem)
    assert len(data.target) == sum(part.n_obs for part in problem.train)
    rows = np.concatenate([piece.row.numpy() for piece in data.train])
    assert sorted(rows) == list(range(len(data.target)))  # each cell is core once
    assert 0 < data.held_out.mean() < 0.6
    assert sum(int(p.core_mask.sum()) for p in data.test[0]) == problem.test[0].n_obs


def test_answers_of_other_sizes_are_refused(problems) -> None:
    problem, score = problems["shares"]
    n, k = problem.test[0].n_obs, len(problem.names)
    with pytest.raises(ValueError, match=r"must be \[\d+, \d+\]; found"):
        score([np.zeros((n, k + 1))])
    with pytest.raises(ValueError, match="1 answers are asked for"):
        score([])
    with pytest.raises(TypeError, match="must be a NumPy array; found list"):
        score([[0.0]])
    with pytest.raises(ValueError, match="not finite"):
        score([np.full((n, k), np.nan)])
