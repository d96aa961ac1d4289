"""Tasks on superpixels and particles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from torch_geometric.data import Data

from stofm_geo.benchmark.geometry.data import SYSTEMS, Graphs
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.problems import Split
from stofm_geo.datasets import rotate_graphs


def superpixels(graphs: Graphs, dataset: str) -> Iterator[Split]:
    """Yield the split of images; tests are of rotated images, and of upright ones."""

    def make() -> tuple[GraphProblem, Callable]:
        truth = np.array([int(data.y) for data in graphs["test"]])
        upright = without_targets(graphs["test"])
        tests = [rotate_graphs(upright, seed=0), upright]
        names = [str(label) for label in range(10)]
        train, validation = (_copies(graphs[part]) for part in ("train", "validation"))
        problem = GraphProblem("graph_classes", train, validation, tests, names)
        return problem, partial(_accuracies, truth)

    yield Split("images", make, "images")


def displacements(graphs: Graphs, dataset: str) -> Iterator[Split]:
    """Yield a split per number of training systems; tests are of rotated and of other systems."""

    def make(number: int) -> tuple[GraphProblem, Callable]:
        rotated = rotate_graphs(graphs["test"], seed=0)
        truth = [np.concatenate([d.y for d in test]) for test in (rotated, graphs["test"])]
        tests = [without_targets(rotated), without_targets(graphs["test"])]
        train = _copies(graphs["train"][:number])
        validation = _copies(graphs["validation"][: max(number // 5, 50)])
        problem = GraphProblem("displacements", train, validation, tests)
        return problem, partial(_errors, truth)

    for number in SYSTEMS:
        yield Split(f"{number} systems", partial(make, number), f"{number} systems")


def without_targets(graphs: list[Data]) -> list[Data]:
    """Return graphs without ``y``."""
    shown = _copies(graphs)
    for data in shown:
        del data.y
    return shown


def _copies(graphs: list[Data]) -> list[Data]:
    return [data.clone() for data in graphs]  # models may change them


def _accuracies(truth: np.ndarray, predictions: list[np.ndarray]) -> dict[str, float]:
    rotated, upright = (float((codes == truth).mean()) for codes in predictions)
    return {"accuracy": rotated, "accuracy_upright": upright}


def _errors(truth: list[np.ndarray], predictions: list[np.ndarray]) -> dict[str, float]:
    """Return mean squared errors, relative to that of the mean displacement of the test."""
    relative = [
        float(((p - y) ** 2).mean() / ((y - y.mean(axis=0)) ** 2).mean())
        for p, y in zip(predictions, truth, strict=True)
    ]
    return {"error": relative[0], "error_same_drift": relative[1]}
