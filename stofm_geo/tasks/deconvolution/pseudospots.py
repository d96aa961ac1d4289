"""Pseudospots sampled from the reference tissue, and a network trained on them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.spatial import cKDTree
from torch import nn

from stofm_geo._linalg import sqrt_fractions

_PSEUDOSPOTS = 4000
_SIZE_STD = 0.4  # of the logarithm of the number of cells
_HIDDEN, _EPOCHS, _BATCH, _RATE, _NOISE = 64, 30, 128, 3e-3, 0.3


def sample_pseudospots(pos: list[np.ndarray], cells: float, seed: int) -> sp.csr_matrix:
    """Sample pseudospots, groups of nearby cells, and return their membership matrix.

    Args:
        pos: Positions of the cells of each slice, ``[n_s, 2]`` each.
        cells: Mean number of cells per pseudospot; the number varies, as in real spots.
        seed: Random seed of the positions and the sizes.

    Returns:
        Ones ``[pseudospots, n]``; columns are the cells of all slices, in order.
    """
    random = np.random.default_rng(seed)
    n = np.array([len(p) for p in pos])
    first = np.cumsum(n) - n
    trees = [cKDTree(p) for p in pos]
    members = []
    for centre in random.integers(n.sum(), size=_PSEUDOSPOTS):
        s = int(np.searchsorted(first, centre, side="right")) - 1
        size = int(random.poisson(cells * np.exp(random.normal(0, _SIZE_STD))))
        size = min(max(size, 1), int(n[s]))
        members.append(np.atleast_1d(trees[s].query(pos[s][centre - first[s]], size)[1]) + first[s])
    ends = np.append(0, np.cumsum([len(rows) for rows in members]))
    rows = np.concatenate(members)
    return sp.csr_matrix((np.ones(len(rows)), rows, ends), shape=(_PSEUDOSPOTS, n.sum()))


def mixture_features(cells: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the network inputs: square roots of fractions of the mixture and of the counts."""
    return np.concatenate([sqrt_fractions(cells), sqrt_fractions(counts)], axis=1)


def predict_proportions(
    x: np.ndarray, truth: np.ndarray, spots: np.ndarray, seed: int
) -> np.ndarray:
    """Train a network on pseudospots and return the proportions ``[n, K]`` of spots.

    The network has one hidden layer and is trained by cross-entropy of proportions. Noise on the
    inputs keeps it from relying on single genes, whose counts differ between platforms.

    Args:
        x: Features of the pseudospots, ``[m, F]``.
        truth: Proportions in the pseudospots, ``[m, K]``.
        spots: Features of the spots, ``[n, F]``.
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
                noisy = inputs[rows] + _NOISE * torch.randn(len(rows), inputs.shape[1])
                loss = -(y[rows] * net(noisy).log_softmax(dim=1)).sum(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.no_grad():
        return net.eval()(queries).softmax(dim=1).numpy().astype(np.float64)
