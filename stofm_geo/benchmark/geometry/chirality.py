"""Task on the chirality of tissue: is a piece of a slice mirrored?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from anndata import AnnData
from torch_geometric.data import Data

from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.geometry.tissue import pieces, positions, shared_features
from stofm_geo.benchmark.problems import Split
from stofm_geo.datasets import rotate_graphs

_CELLS = 400  # of a piece
_VALIDATION = 4  # one in so many pieces
_MIRROR = torch.tensor([-1.0, 1.0])
# Two groups of slices: of one donor, and of two animals.
_SLICES = {
    "toy": (["slice1"], ["slice2"]),
    "dlpfc": (["151673"], ["151674"]),
    "merfish": (
        [f"animal1_bregma{level}" for level in ("+0.21", "+0.26", "-0.09", "-0.29")],
        [f"animal7_bregma{level}" for level in ("+0.16", "-0.09")],
    ),
}


def chirality(slices: dict[str, AnnData], dataset: str) -> Iterator[Split]:
    """Yield the two splits by slices: pieces as they are (0), and their mirror images (1).

    Test pieces are rotated by random angles. Layers that do not distinguish mirror images give both
    the same class, so that their accuracy is 0.5.
    """

    def make(train: list[str], test: list[str]) -> tuple[GraphProblem, Callable]:
        chosen = [slices[name] for name in (*train, *test)]
        features = shared_features(chosen)
        parts = [_both(adata, x) for adata, x in zip(chosen, features, strict=True)]
        known = [pair for part in parts[: len(train)] for pair in part]
        new = [data for part in parts[len(train) :] for pair in part for data in pair]
        held_out = [pair for number, pair in enumerate(known) if number % _VALIDATION == 0]
        kept = [pair for number, pair in enumerate(known) if number % _VALIDATION]
        truth = np.array([int(data.y) for data in new])
        new = rotate_graphs(new, seed=0)
        for data in new:
            del data.y
        problem = GraphProblem(
            "graph_classes",
            [data for pair in kept for data in pair],
            [data for pair in held_out for data in pair],
            [new],
            ["as it is", "mirrored"],
        )
        return problem, partial(_accuracy, truth)

    first, second = _SLICES[dataset]
    for train, test in ((first, second), (second, first)):
        yield Split(f"{train[0]} to {test[0]}", partial(make, train, test), "slices")


def _both(adata: AnnData, x: np.ndarray) -> list[tuple[Data, Data]]:
    """Return each piece of a slice and its mirror image."""
    pairs = []
    for piece in pieces(_positions(adata), x, _CELLS, halo=0):
        images = piece, piece.clone()
        images[1].pos = images[1].pos * _MIRROR
        for label, image in enumerate(images):
            image.y = torch.tensor([label])
        pairs.append(images)
    return pairs


def _positions(adata: AnnData) -> np.ndarray:
    """Return positions ``[n, 2]``; of spots of Visium, on their ideal lattice.

    Pixels of spots are whole numbers on a lattice turned by a fraction of a degree, whose pattern
    of roundings differs from its mirror image: networks learn it without seeing any tissue.
    """
    if "array_row" in adata.obs:
        column, row = (adata.obs[key].to_numpy(float) for key in ("array_col", "array_row"))
        return np.stack([column, row * np.sqrt(3)], axis=1)
    return positions(adata)


def without_features(problem: GraphProblem) -> GraphProblem:
    """Return the problem with all features 1: what positions alone tell."""
    parts = [problem.train, problem.validation, *problem.test]
    parts = [[data.clone() for data in graphs] for graphs in parts]
    for graphs in parts:
        for data in graphs:
            data.x = torch.ones_like(data.x[:, :1])
    return replace(problem, train=parts[0], validation=parts[1], test=parts[2:])


def _accuracy(truth: np.ndarray, predictions: list[np.ndarray]) -> dict[str, float]:
    return {"accuracy": float((predictions[0] == truth).mean())}
