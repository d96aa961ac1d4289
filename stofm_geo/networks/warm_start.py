"""Initialisation of gene embeddings by the best linear autoencoder of the components."""

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
    components :math:`t`, up to factors. Its mean squared error depends only on the variances of the
    components, so no cells are needed. Panels share the embedding space and the embeddings of
    common genes, so there is no closed form; Adam iterates over the slices. Directions that no
    slice needs, such as noise, stay small in :math:`E`.

    Args:
        encoder: Encoder, whose ``embedding`` is fitted in place.
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
        loadings = loadings[:, loadings.any(dim=0)]  # without padding of small panels
        width = 1 / loadings.norm(dim=0)  # inverse of the halfway whitening
        variance = width**2 / (width**2).mean()  # of the components, with mean 1
        axes = unit_axes(loadings)
        # With this scale, a decoder equal to a random encoder inverts it approximately.
        decoded = (axes @ decoder[panel]).t() * (len(axes) / encoder.out_channels)
        reconstruction = axes @ encoder.embedding[panel] @ decoded
        error = (reconstruction - torch.eye(len(reconstruction))).square() * variance[:, None]
        loss = error.sum() / variance.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[i] = loss.item()
        if losses.max() < _ENOUGH:
            break
