"""Gene embeddings to start from: the best linear ones, found from components alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stofm_geo.models.network import Network

_STEPS, _RATE, _SMALL, _ENOUGH = 3000, 0.005, 0.1, 1e-3


def warm_start(network: Network, slices: Sequence[tuple[Tensor, Tensor]]) -> None:
    r"""Fit gene embeddings and readout to reconstruct each slice's components linearly.

    A linear encoder and readout make :math:`\hat t = t U^\top E R^\top U` of components :math:`t`,
    but for factors. Its mean squared error depends on the variances of the components alone; no
    cell is looked at. Embeddings of different panels share their space, and those of shared genes
    are the same, so there is no closed form; Adam goes over the slices in turn.

    Args:
        network: With a panel encoder; its ``embedding`` and ``readout`` are changed.
        slices: ``panel`` ``[G_s]`` and ``loadings`` ``[G_s, k]`` of each
            (:func:`~stofm_geo.data.pieces.pieces`).
    """
    weights = [network.encoder.embedding, network.readout]
    with torch.no_grad():
        for weight in weights:  # what is not asked for, noise, stays small
            weight *= _SMALL
    optimizer = torch.optim.Adam(weights, _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    rounds = _STEPS // len(slices) + 1
    order = torch.cat([torch.randperm(len(slices)) for _ in range(rounds)])
    losses = torch.full((len(slices),), torch.inf)
    for i in order[:_STEPS].tolist():
        panel, loadings = slices[i]
        loadings = loadings[:, loadings.any(dim=0)]  # zeros fill up what a small panel lacks
        width = 1 / loadings.norm(dim=0)  # of halfway whitening: the root of the deviation
        variance = width**2 / (width**2).mean()  # of the components
        found = network.encoder.axes(panel, loadings) @ network.reads(panel, loadings)
        error = (found - torch.eye(len(found))).square() * variance[:, None]
        loss = error.sum() / variance.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[i] = loss.item()
        if losses.max() < _ENOUGH:
            break
