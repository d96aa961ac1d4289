"""A classifier with one hidden layer on what a frozen network says."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from stofm_geo.tasks.labels import balanced

_WIDTH, _DROPOUT = 64, 0.5
_ROUNDS, _BATCH, _RATE, _DECAY = 30, 128, 1e-3, 1e-2


def classifier(inputs: int, count: int) -> nn.Sequential:
    """``[n, inputs]`` to logits ``[n, count]``, untrained."""
    return nn.Sequential(
        nn.Dropout(_DROPOUT),
        nn.Linear(inputs, _WIDTH),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_WIDTH, count),
    )


def learn(x: np.ndarray, codes: np.ndarray, count: int, seed: int) -> nn.Sequential:
    """A classifier of cells ``[n, D]`` that all have a class, ``[n]``; classes weigh the same.

    AdamW, 30 rounds of batches of 128; dropout of a half of what it sees and of the hidden layer
    keeps it from learning the tissue by heart, so that nothing has to be chosen.
    """
    x, y = torch.from_numpy(x).float(), torch.from_numpy(codes)
    weight = torch.from_numpy(balanced(codes, count)).float()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = classifier(x.shape[1], count)
        optimizer = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_DECAY)
        for _ in range(_ROUNDS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows], weight).backward()
                optimizer.step()
    return net.eval()


@torch.no_grad()
def out_of_fold(
    x: np.ndarray, codes: np.ndarray, count: int, held_out: list[np.ndarray], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a class (-1: none), and their logits when their fold was held out.

    Args:
        x: ``[n, D]``.
        codes: Classes ``[n]``.
        count: Classes.
        held_out: A mask ``[n]`` a fold.
        seed: Of weights and dropout.

    Returns:
        ``[m]``, ``[m, count]``.
    """
    rows, logits = [], []
    for fold in held_out:
        train, test = np.flatnonzero(~fold & (codes >= 0)), np.flatnonzero(fold & (codes >= 0))
        if len(np.unique(codes[train])) < 2:
            continue
        net = learn(x[train], codes[train], count, seed)
        rows.append(test)
        logits.append(net(torch.from_numpy(x[test]).float()).double().numpy())
    return np.concatenate(rows), np.concatenate(logits)
