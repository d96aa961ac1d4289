"""Tasks on graphs in the plane: splits, truths, scores, and what would leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from stofm_geo.benchmark import DATASETS, MODELS, TASKS
from stofm_geo.benchmark.geometry import axes, tasks, training
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.problems import check_leak_free
from stofm_geo.benchmark.scoring import check_predictions
from stofm_geo.datasets import (
    charged_particles,
    rotate_graphs,
    small_digits,
    superpixel_graphs,
)


@pytest.fixture
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(training, "STEPS", 20)
    monkeypatch.setattr(training, "_TISSUE_STEPS", 20)


@pytest.fixture(scope="module")
def digits():
    images, labels = small_digits()
    graphs = superpixel_graphs(images[:60], labels[:60])
    return {"train": graphs[:30], "validation": graphs[30:40], "test": graphs[40:]}


def test_superpixels_are_scored_rotated_and_upright(digits, few_steps) -> None:
    (split,) = tasks.superpixels(digits, "digits")
    problem, score = split.make()
    check_leak_free(problem)
    truth = np.array([int(data.y) for data in digits["test"]])
    wrong = (truth + 1) % 10
    assert score([truth, wrong]) == {"accuracy": 1.0, "accuracy_upright": 0.0}
    rotated, upright = problem.test
    assert torch.equal(upright[0].pos, digits["test"][0].pos)
    lengths = [torch.pdist(data.pos.double()) for data in (rotated[0], upright[0])]
    torch.testing.assert_close(*lengths, atol=1e-4, rtol=0)
    predictions, record = MODELS["GATv2"].solve(problem, 0)
    check_predictions(problem, predictions)
    assert record["step"] in (0, *range(1, 21))
    with pytest.raises(ValueError, match=r"a prediction must be \[20\]; found \[19\]"):
        check_predictions(problem, [predictions[0][1:], predictions[1]])
    with pytest.raises(ValueError, match="2 arrays, one per list of test graphs; found 1"):
        check_predictions(problem, predictions[:1])


def test_a_test_graph_with_its_class_is_refused(digits) -> None:
    problem = GraphProblem("graph_classes", digits["train"], [], [digits["test"]])
    with pytest.raises(ValueError, match="a test graph has y"):
        check_leak_free(problem)


def test_a_training_graph_is_no_test_graph(digits) -> None:
    test = tasks.without_targets(rotate_graphs(digits["train"][3:4], seed=1))
    problem = GraphProblem("graph_classes", digits["train"], [], [test])
    with pytest.raises(ValueError, match="a test graph is also a training graph"):
        check_leak_free(problem)


def test_what_a_model_does_to_training_graphs_is_not_seen_by_others(digits) -> None:
    (split,) = tasks.superpixels(digits, "digits")
    first, _ = split.make()
    before = first.digest()
    first.train[0].x.mul_(0)
    first.train[0].x = first.train[0].x + 1
    assert split.make()[0].digest() == before


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_digest_notices(part: str) -> None:
    def problem() -> GraphProblem:
        graphs = charged_particles(6)
        return GraphProblem("displacements", graphs[:3], [], [graphs[3:]])

    def permuted(x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, dims=0)

    changes = {
        "vectors": lambda vectors: -3 * vectors,
        "edge_index": lambda edges: edges[[0, 0]],
        "x": permuted,
        "y": permuted,
        "pos": lambda pos: 5 * pos,
    }
    before = problem().digest()
    assert problem().digest() == before
    for key, change in changes.items():
        other = problem()
        graph = other.train[1] if part == "train" else other.test[0][1]
        graph[key] = change(graph[key])
        assert other.digest() != before, key


def test_displacements_are_scored_relative_to_their_mean(monkeypatch, few_steps) -> None:
    monkeypatch.setattr(tasks, "SYSTEMS", (10, 20))
    graphs = {
        name: charged_particles(size, seed=seed)
        for seed, (name, size) in enumerate({"train": 20, "validation": 60, "test": 9}.items())
    }
    first, second = tasks.displacements(graphs, "particles")
    problem, score = first.make()
    assert len(problem.train) == 10 and len(second.make()[0].train) == 20
    assert problem.digest() == first.make()[0].digest() != second.make()[0].digest()
    truth = torch.cat([data.y for data in graphs["test"]]).numpy()
    mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert score([truth, truth])["error_same_drift"] == 0 < score([truth, truth])["error"]
    assert score([truth, mean])["error_same_drift"] == pytest.approx(1)
    predictions, _ = MODELS["EGNN"].solve(problem, 0)
    check_predictions(problem, predictions)
    with pytest.raises(ValueError, match="not finite"):
        check_predictions(problem, [predictions[0] * np.nan, predictions[1]])


@pytest.mark.parametrize("task", ["superpixels", "particles", "axes", "chirality"])
def test_models_of_a_task_exist(task: str) -> None:
    kind = TASKS[task].kind
    assert sum(kind in model.kinds for model in MODELS.values()) >= 6
    assert set(TASKS[task].datasets) <= set(DATASETS)


def test_gradients_are_those_of_a_plane_and_of_a_ring() -> None:
    random = np.random.default_rng(0)
    pos = random.uniform(-1, 1, (600, 2))
    found = axes.gradients(pos, 3 * pos[:, 0] + 4 * pos[:, 1] + 7)
    np.testing.assert_allclose(found, np.broadcast_to([0.6, 0.8], found.shape), atol=1e-9)
    assert np.isnan(axes.gradients(pos, np.ones(600))).all()
    inner = np.linalg.norm(pos, axis=1) < 0.6
    outwards = pos / np.linalg.norm(pos, axis=1, keepdims=True)
    found = axes.gradients(pos, (pos**2).sum(axis=1))
    away = inner & (np.linalg.norm(pos, axis=1) > 0.2)
    assert ((found * outwards).sum(axis=1)[away] > 0.95).all()


def test_mirror_images_are_told_apart_by_chance_without_chirality(few_steps) -> None:
    slices = DATASETS["toy"].read(None)
    first, second = TASKS["chirality"].splits(slices, "toy")
    assert {first.name, second.name} == {"slice1 to slice2", "slice2 to slice1"}
    problem, score = first.make()
    check_leak_free(problem)
    test = problem.test[0]
    assert [int(data.y) for data in problem.train[:2]] == [0, 1]
    for one, other in zip(test[::2], test[1::2], strict=True):  # a piece and its mirror image
        assert torch.equal(one.x, other.x)
        distances = [torch.pdist(data.pos.double()) for data in (one, other)]
        torch.testing.assert_close(*distances, atol=1e-3, rtol=0)
    truth = np.arange(len(test)) % 2
    assert score([truth]) == {"accuracy": 1.0}
    predictions, _ = MODELS["SE2TransformerConv (vectors of E(2))"].solve(problem, 0)
    assert score(predictions) == {"accuracy": 0.5}


@pytest.mark.slow
@pytest.mark.shared
def test_axes_of_real_cortex(shared_data) -> None:
    splits = {
        split.name: split
        for split in TASKS["axes"].splits(DATASETS["layers"].read(shared_data), "layers")
    }
    problem, score = splits["osmfish to dlpfc"].make()
    check_leak_free(problem)
    predictions, record = MODELS["depth gradient"].solve(problem, 0)
    scores = score(predictions)
    assert scores["cosine"] > 0.85 and record["share"] >= 0.2
    opposite = score([-predictions[0]])
    assert opposite["cosine"] == pytest.approx(-scores["cosine"])
    for data in problem.train:  # lengths of the truth are 1, in the core
        torch.testing.assert_close(
            data.y[data.mask].norm(dim=1), torch.ones(int(data.mask.sum())), atol=1e-4, rtol=0
        )
        assert not (data.mask & ~data.core_mask).any()
        assert data.vectors.shape == (data.num_nodes, 5, 2)
    batch = Batch.from_data_list(problem.test[0])
    assert "y" not in batch and "mask" not in batch
