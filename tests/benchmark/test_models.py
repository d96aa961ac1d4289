"""Every model answers every problem of its kinds; all that are trained have the same size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stofm_geo import SToFM
from stofm_geo.benchmark import DATASETS, MODELS, TASKS, stofm_models, trained
from stofm_geo.benchmark.graphs import graphs
from stofm_geo.benchmark.layers import Stack
from stofm_geo.benchmark.models import SAME_GENES, LayerModel
from stofm_geo.benchmark.problems import LABEL
from stofm_geo.benchmark.scoring import MAIN, check_predictions
from stofm_geo.benchmark.trained import GraphLayerModel, Net, count, width_of
from stofm_geo.benchmark.worker import run_files

ROOT = Path(__file__).parents[2]
TASK = {"classes": "cell_types", "vectors": "domains", "shares": "deconvolution"}
TASK |= {"values": "imputation", "molecules": "molecules", "transfer": "transfer"}


@pytest.fixture(scope="module")
def problems():
    slices = DATASETS["toy"].read(None)
    return {kind: next(TASKS[TASK[kind]].splits(slices, "toy")).make() for kind in TASK}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(trained, "STEPS", 10)
    monkeypatch.setattr(trained, "PARAMETERS", 5000)
    fit, tune = SToFM.fit, stofm_models.fine_tune
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **(k | {"max_steps": 2})))
    monkeypatch.setattr(
        stofm_models, "fine_tune", lambda *a, **k: tune(*a, **(k | {"max_steps": 2}))
    )


def test_what_a_model_sees_has_no_truth(problems) -> None:
    for kind, (problem, _) in problems.items():
        for part in problem.test:
            assert LABEL not in part.obs
            if kind == "values":
                assert not set(part.var_names) & set(problem.names)


TRAINED = [
    name for name, model in MODELS.items() if isinstance(model.solve, GraphLayerModel | LayerModel)
]
OTHERS = [
    (name, kind)
    for name, model in MODELS.items()
    for kind in model.kinds
    if kind in TASK  # those on graphs in the plane have tests of their own
    if name not in TRAINED and not model.needs and not name.startswith("stofm-geo-mini")
]


# Variants of a layer, and of a model, answer as the layer and the model do.
SLOW = [name for name in MODELS if "(" in name and "nearest" not in name]
SLOW += ["GATv2", "TransformerConv", "EGNN", "GPS"]
PAIRS = [
    *OTHERS,
    *((name, "classes") for name in TRAINED),
    *(("GCN", kind) for kind in SAME_GENES if kind != "classes"),
]


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] in SLOW)) for pair in PAIRS],
)
def test_answers(problems, name, kind) -> None:
    problem, score = problems[kind]
    answers, _ = MODELS[name].solve(problem, 0)
    check_predictions(problem, answers)
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
    with pytest.raises(FileNotFoundError, match=r"a\.txt: is not a Python file"):
        run_files([tmp_path / "a.txt"])
    with pytest.raises(FileNotFoundError, match=r"b\.py: there is no such file"):
        run_files([tmp_path / "b.py"])
    (tmp_path / "c.py").write_text("x = 1\nraise OSError('boom')\n")
    told = r"c.py cannot be loaded: OSError: boom \(c.py, line 2\)"
    with pytest.raises(RuntimeError, match=told):
        run_files([tmp_path / "c.py"])


def test_a_model_of_real_genes_says_so(problems) -> None:
    problem, _ = problems["vectors"]
    with pytest.raises(ValueError, match="Ensembl"):
        MODELS["stofm-geo-mini"].solve(problem, 0)


@pytest.mark.parametrize("name", TRAINED)
def test_sizes_are_the_same(name, monkeypatch) -> None:
    monkeypatch.undo()
    solve = MODELS[name].solve
    body = (solve.tissue if isinstance(solve, LayerModel) else solve).body
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
    rows = np.concatenate([subslice.row.numpy() for subslice in data.train])
    assert sorted(rows) == list(range(len(data.target)))  # each cell is core once
    assert 0 < data.held_out.mean() < 0.6
    assert sum(int(p.core_mask.sum()) for p in data.test[0]) == problem.test[0].n_obs


def test_answers_of_other_sizes_are_refused(problems) -> None:
    problem, _ = problems["shares"]
    n, k = problem.test[0].n_obs, len(problem.names)
    with pytest.raises(ValueError, match=r"must be \[\d+, \d+\]; found"):
        check_predictions(problem, [np.zeros((n, k + 1))])
    with pytest.raises(ValueError, match="predictions must be 1 arrays"):
        check_predictions(problem, [])
    with pytest.raises(TypeError, match="must be a NumPy array; found list"):
        check_predictions(problem, [[0.0]])
    with pytest.raises(ValueError, match="not finite"):
        check_predictions(problem, [np.full((n, k), np.nan)])


class Odd(torch.nn.Module):
    """Gives what a layer must not give."""

    def __init__(self, width: int, give: Callable) -> None:
        super().__init__()
        self.linear, self.give = torch.nn.Linear(width, width), give

    def forward(self, x, edge_index, pos):
        return self.give(self.linear(x))


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda x: x[:, 1:], r"a layer must return a tensor \[\d+, \d+\]; found \[\d+, \d+\]"),
        (lambda x: (x, x), "a layer must return a tensor .* found tuple"),
        (lambda x: x * torch.nan, "the loss is not finite at any learning rate"),
    ],
)
def test_layers_that_give_something_else_are_told(problems, give, told) -> None:
    problem, _ = problems["classes"]
    with pytest.raises(ValueError, match=told):
        GraphLayerModel(partial(Stack, partial(Odd, give=give)))(problem, 0)


def test_names_can_be_listed_with_commas() -> None:
    assert not any("," in name for name in (*MODELS, *TASKS, *DATASETS))
