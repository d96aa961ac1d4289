"""Pseudospots sampled from the reference tissue, and a network trained on them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import cKDTree
from torch import nn

from stofm_geo._linalg import sqrt_fractions

_WINDOWS = 4000
_SPREAD = 0.4  # of the cells in a window, standard deviation of the logarithm
_HIDDEN, _EPOCHS, _BATCH, _RATE, _NOISE = 64, 30, 128, 3e-3, 0.3


def sample_pseudospots(pos: list[np.ndarray], cells: float, seed: int) -> sp.csr_matrix:
    """Sample pseudospots: nearby cells that one spot would cover, ``[windows, n]``, ones.

    Args:
        pos: Positions of the cells of each slice, ``[n, 2]`` each; columns count through them all.
        cells: Mean number of cells per pseudospot; sizes vary, as those of spots.
        seed: Random seed of the positions and the sizes.
    """
    random = np.random.default_rng(seed)
    n = np.array([len(p) for p in pos])
    first = np.cumsum(n) - n
    trees = [cKDTree(p) for p in pos]
    inside = []
    for centre in random.integers(n.sum(), size=_WINDOWS):
        s = int(np.searchsorted(first, centre, side="right")) - 1
        size = int(random.poisson(cells * np.exp(random.normal(0, _SPREAD))))
        size = min(max(size, 1), int(n[s]))
        inside.append(np.atleast_1d(trees[s].query(pos[s][centre - first[s]], size)[1]) + first[s])
    ends = np.append(0, np.cumsum([len(rows) for rows in inside]))
    rows = np.concatenate(inside)
    return sp.csr_matrix((np.ones(len(rows)), rows, ends), shape=(_WINDOWS, n.sum()))


def mixture_features(cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the network inputs: square roots of fractions of the mixture and of the counts."""
    return np.concatenate([sqrt_fractions(cells), sqrt_fractions(counts)], axis=1)


def predict_proportions(
    x: np.ndarray, truth: np.ndarray, spots: np.ndarray, seed: int
) -> np.ndarray:
    """Train a network on pseudospots and return the proportions ``[n, K]`` of spots.

    It has one hidden layer and is trained by cross-entropy of proportions. Noise on the inputs
    keeps it from relying on single genes, whose counts differ between platforms.

    Args:
        x: Features of windows, ``[m, F]``.
        truth: Their proportions, ``[m, K]``.
        spots: Features of spots, ``[n, F]``.
        seed: Random seed of weights, batches and noise.
    """
    mean, scale = x.mean(axis=0), x.std(axis=0) + 0.02
    inputs, queries, y = (
        torch.from_numpy(v).float() for v in ((x - mean) / scale, (spots - mean) / scale, truth)
    )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(inputs.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(_HIDDEN, y.shape[1]),
        )
        steps = len(inputs) // _BATCH
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _RATE, total_steps=_EPOCHS * steps
        )
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(inputs))[: steps * _BATCH].split(_BATCH):
                seen = inputs[rows] + _NOISE * torch.randn(len(rows), inputs.shape[1])
                loss = -(y[rows] * net(seen).log_softmax(dim=1)).sum(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        return net.eval()(queries).softmax(dim=1).numpy().astype(np.float64)
