"""Classifier with one hidden layer, mixed with the linear one, on frozen embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stofm_geo.tasks.annotation.calibration import temperature
from stofm_geo.tasks.labels import balanced
from stofm_geo.tasks.metrics import balanced_loss

_WIDTH, _DROPOUT = 64, 0.5
_ROUNDS, _BATCH, _RATE, _DECAY = 30, 128, 1e-3, 1e-2
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # candidate weights of the hidden layer's logits


class Classifier(nn.Module):
    """Mixture of a linear classifier and one with a hidden layer.

    With few labels or many classes, the hidden-layer classifier alone is much worse than the linear
    one; its weight in the mixture is chosen on held-out cells.

    Args:
        inputs: Number of input features.
        count: Number of classes.
    """

    share: Tensor

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, count)
        self.hidden = _layers(inputs, count)
        self.register_buffer("share", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[n, count]`` of inputs ``[n, inputs]``."""
        return mix_logits(self.linear(x), self.hidden(x), self.share)


def _layers(inputs: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(_DROPOUT),
        nn.Linear(inputs, _WIDTH),
        nn.GELU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_WIDTH, count),
    )


def mix_logits(linear: Any, hidden: Any, share: Any) -> Any:
    """Return ``linear + share * (hidden - linear)``, logits as tensors or arrays."""
    return linear + share * (hidden - linear)


def choose_share(linear: np.ndarray, hidden: np.ndarray, codes: np.ndarray) -> float:
    """Return the weight of the hidden layer with the least class-balanced cross-entropy.

    Logits are calibrated first, so that overconfidence does not decide.

    Args:
        linear: Logits of held-out cells from the linear classifier, ``[m, C]``.
        hidden: The same from the classifier with a hidden layer.
        codes: Classes of these cells, ``[m]``.
    """

    def loss(share: float) -> float:
        logits = mix_logits(linear, hidden, share)
        return balanced_loss(logits / temperature(logits, codes), codes)

    return min(_SHARES, key=loss)


def fit_hidden(x: np.ndarray, codes: np.ndarray, count: int, seed: int) -> nn.Sequential:
    """Train the hidden-layer classifier on cells ``[n, D]`` of classes ``[n]``, balanced.

    AdamW, 30 epochs of batches of 128; dropout of 0.5 on the inputs and on the hidden layer
    against overfitting.
    """
    inputs, y = torch.from_numpy(x).float(), torch.from_numpy(codes)
    weight = torch.from_numpy(balanced(codes, count)).float()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = _layers(inputs.shape[1], count)
        optimizer = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_DECAY)
        for _ in range(_ROUNDS):
            for rows in torch.randperm(len(inputs)).split(_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(inputs[rows]), y[rows], weight).backward()
                optimizer.step()
    return net.eval()


@torch.no_grad()
def out_of_fold(
    x: np.ndarray, codes: np.ndarray, count: int, held_out: list[np.ndarray], seed: int
) -> np.ndarray:
    """Return out-of-fold logits of each cell.

    Args:
        x: Inputs ``[n, D]``.
        codes: Classes ``[n]``, -1 where unknown.
        count: Number of classes.
        held_out: Mask of each fold, ``[n]`` bool each.
        seed: Random seed of weights and dropout.

    Returns:
        Logits ``[n, count]``; NaN for cells without a label or a usable fold.
    """
    logits = np.full((len(x), count), np.nan)
    for fold in held_out:
        train, test = np.flatnonzero(~fold & (codes >= 0)), np.flatnonzero(fold & (codes >= 0))
        if len(np.unique(codes[train])) < 2:
            continue
        net = fit_hidden(x[train], codes[train], count, seed)
        logits[test] = net(torch.from_numpy(x[test]).float()).double().numpy()
    return logits
