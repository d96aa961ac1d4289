"""Task on the axis of the cortex: from which side of a cell is the white matter?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any
from zlib import crc32

import numpy as np
import torch
from anndata import AnnData
from scipy.spatial import cKDTree
from scipy.special import softmax
from torch_geometric.data import Data

from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.geometry.tissue import (
    pieces,
    positions,
    rotated_positions,
    shared_features,
)
from stofm_geo.benchmark.problems import Split
from stofm_geo.benchmark.splits import labels_of
from stofm_geo.tasks.annotation.probe import choose, fit_probe
from stofm_geo.tasks.splits import folds, tissue_groups

DEPTHS = {"L1": 0, "L2/3": 1, "L4": 2, "L5": 3, "L6": 4, "WM": 5}
_CELLS, _HALO = 250, 3  # core cells of a piece, and hops around them
_NEAR = 0.1  # share of the cells that true gradients and means of predictions are over
_SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # that predicted gradients may be over
_LEAST = 50
_FOLDS = 4


def gradients(pos: np.ndarray, values: np.ndarray, share: float = _NEAR) -> np.ndarray:
    """Return the direction in which a smoothed quantity grows, at each cell.

    It is that of the slope ``g`` of the weighted least squares fit ``a + g (p_j - p)`` to the
    values of the cells nearest to ``p``, with weights ``exp(-2 d_j^2 / d_max^2)``.

    Args:
        pos: Positions of the cells, ``[n, 2]``.
        values: Values of the cells, ``[n]``.
        share: Share of the cells that count as near; at least 50 cells do.

    Returns:
        Unit vectors ``[n, 2]``; NaN where all values nearby are the same.
    """
    distance, index = _nearest(pos, share)
    weight = np.exp(-2 * (distance / distance[:, -1:]) ** 2)[..., None]
    design = np.concatenate([np.ones((*index.shape, 1)), pos[index] - pos[:, None]], axis=2)
    normal = design.transpose(0, 2, 1) @ (weight * design)
    slope = np.linalg.solve(
        normal, design.transpose(0, 2, 1) @ (weight * values[index][..., None])
    )[:, 1:, 0]
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    spread = np.ptp(values[index], axis=1) > 0
    return np.where(spread[:, None], slope / np.maximum(length, 1e-12), np.nan)


def _nearest(pos: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows of the nearest cells of each cell, a share of all."""
    count = min(max(int(share * len(pos)), _LEAST), len(pos))
    return cKDTree(pos).query(pos, count)


def axes(slices: dict[str, AnnData], dataset: str) -> Iterator[Split]:
    """Yield a split per ordered pair of slices: axes of the first, cells of the second.

    The second slice is rotated by a random angle. Features are the probabilities of the layers by
    logistic regression on components of the shared genes (the best known way to find layers in
    another study), and vectors the directions in which the depth grows that these
    probabilities tell, over shares of the cells: models differ in what they make of directions.
    """

    def make(names: tuple[str, str]) -> tuple[GraphProblem, Callable]:
        source, target = (slices[name] for name in names)
        pos, depth = positions(source), _depths(source)
        known, new = _probabilities(pos, depth, *shared_features([source, target]))
        axis = _axis(pos, depth)
        train = _with_gradients(pieces(pos, known, _CELLS, _HALO), pos, known)
        for data in train:
            rows = data.n_id.numpy()
            data.y = torch.from_numpy(np.nan_to_num(axis[rows])).float()
            data.mask = data.core_mask & torch.from_numpy(np.isfinite(axis[rows]).all(axis=1))
        train = [data for data in train if data.mask.any()]
        held_out = np.arange(len(train)) % _FOLDS == 0
        turned = rotated_positions(positions(target), seed=crc32(repr(names).encode()))
        test = _with_gradients(pieces(turned, new, _CELLS, _HALO), turned, new)
        problem = GraphProblem(
            "axes",
            [data for data, out in zip(train, held_out, strict=True) if not out],
            [data for data, out in zip(train, held_out, strict=True) if out],
            [test],
        )
        return problem, partial(_cosines, test, turned, _axis(turned, _depths(target)))

    for pair in permutations(slices, 2):
        yield Split(f"{pair[0]} to {pair[1]}", partial(make, pair), "slices")


def depth_gradient(problem: GraphProblem, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return the direction in which the depth grows, which the graphs have as vectors.

    The share of the cells that count as near is the one that is best for the training slice.
    """
    known = problem.train + problem.validation
    vectors = torch.cat([data.vectors[data.mask] for data in known]).numpy()
    truth = torch.cat([data.y[data.mask] for data in known]).numpy()
    cosines = [_mean_cosine(vectors[:, k], truth) for k in range(len(_SHARES))]
    best = int(np.argmax(cosines))
    predictions = [
        torch.cat([data.vectors[:, best] for data in graphs]).numpy() for graphs in problem.test
    ]
    return predictions, {"share": _SHARES[best]}


def _with_gradients(graphs: list[Data], pos: np.ndarray, x: np.ndarray) -> list[Data]:
    """Add the directions in which the expected depth grows as ``vectors`` ``[N, shares, 2]``."""
    depth = x @ np.arange(x.shape[1])
    vectors = np.stack([gradients(pos, depth, share) for share in _SHARES], axis=1)
    for data in graphs:
        data.vectors = torch.from_numpy(np.nan_to_num(vectors[data.n_id.numpy()])).float()
    return graphs


def _probabilities(
    pos: np.ndarray, depth: np.ndarray, known: np.ndarray, new: np.ndarray
) -> list[np.ndarray]:
    """Return probabilities of the layers by logistic regression, ``[n, layers]`` for each slice.

    Those of the labelled slice are out of fold, so that they are as uncertain as for new cells.
    """
    codes = np.where(np.isfinite(depth), depth, -1).astype(int)
    count = len(DEPTHS)
    held_out = folds(np.concatenate(tissue_groups([pos])), codes, _FOLDS, seed=0)
    choice = choose(known, codes, count, held_out, seed=0)

    def fitted(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        head = fit_probe(known[rows], codes[rows], count, choice.strength)
        return softmax(head.logits(x), axis=1)

    out_of_fold = fitted(codes >= 0, known)  # for cells without a label
    for fold in held_out:
        out_of_fold[fold] = fitted((codes >= 0) & ~fold, known[fold])
    return [out_of_fold, fitted(codes >= 0, new)]


def _depths(adata: AnnData) -> np.ndarray:
    """Return the depth of the layer of each cell, ``[n]``; NaN where it is not known."""
    return np.array([DEPTHS.get(label, np.nan) for label in labels_of(adata, "region")])


def _axis(pos: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the axis of each cell whose layer is known, ``[n, 2]``; NaN elsewhere."""
    known = np.isfinite(depth)
    axis = np.full((len(pos), 2), np.nan)
    axis[known] = gradients(pos[known], depth[known])
    return axis


def _cosines(
    test: list[Data], pos: np.ndarray, truth: np.ndarray, predictions: list[np.ndarray]
) -> dict[str, float]:
    """Return mean cosines of the predictions' means over the nearest cells, and of single cells."""
    (predicted,) = predictions
    sizes = np.cumsum([data.num_nodes for data in test])[:-1]
    of_cell = np.empty_like(truth)
    for data, part in zip(test, np.split(predicted, sizes), strict=True):
        core = data.core_mask.numpy()
        of_cell[data.n_id.numpy()[core]] = part[core]
    smooth = of_cell[_nearest(pos, _NEAR)[1]].mean(axis=1)
    known = np.isfinite(truth).all(axis=1)
    return {
        "cosine": _mean_cosine(smooth[known], truth[known]),
        "cosine_of_cell": _mean_cosine(of_cell[known], truth[known]),
    }


def _mean_cosine(predicted: np.ndarray, truth: np.ndarray) -> float:
    length = np.linalg.norm(predicted, axis=1)
    return float(((predicted * truth).sum(axis=1) / np.maximum(length, 1e-12)).mean())
