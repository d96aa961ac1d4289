"""Gene embeddings to start from: the best linear ones, found from components alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stofm_geo.genes import PanelEncoder
from stofm_geo.genes.panel_encoder import unit_axes

_STEPS, _RATE, _SMALL, _ENOUGH = 3000, 0.005, 0.1, 1e-3


def warm_start(encoder: PanelEncoder, slices: Sequence[tuple[Tensor, Tensor]]) -> None:
    r"""Fit gene embeddings to reconstruct each slice's components linearly.

    A linear encoder :math:`E` and decoder :math:`R` make :math:`\hat t = t U^\top E R^\top U` of
    components :math:`t`, but for factors. Its mean squared error depends on the variances of the
    components alone; no cell is looked at. Embeddings of different panels share their space, and
    those of shared genes are the same, so there is no closed form; Adam goes over the slices in
    turn. What no slice asks for, noise, stays small in :math:`E`.

    Args:
        encoder: Its ``embedding`` is changed.
        slices: ``panel`` ``[G_s]`` and ``loadings`` ``[G_s, k]`` of each
            (:class:`~stofm_geo.data.SubSliceDataset`).
    """
    with torch.no_grad():
        encoder.embedding.mul_(_SMALL)
    decoder = encoder.embedding.detach().clone().requires_grad_()
    weights = [encoder.embedding, decoder]
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
        axes = unit_axes(loadings)
        # So scaled, a decoder that equals a random encoder undoes it as it stands.
        decoded = (axes @ decoder[panel]).t() * (len(axes) / encoder.out_channels)
        found = axes @ encoder.embedding[panel] @ decoded
        error = (found - torch.eye(len(found))).square() * variance[:, None]
        loss = error.sum() / variance.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[i] = loss.item()
        if losses.max() < _ENOUGH:
            break
