"""What a classifier reads of a cell: its embedding, its wider surroundings, within its slice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.data import SubSliceDataset
from stofm_geo.networks.stofm import SToFMNetwork

TASKS = ("region", "cell_type")
_HOPS = (2, 4, 8)  # over which a region's embeddings are averaged, too
# A cell's type is its own; all that is known of its surroundings together may add a little.
_NICHE = 0.1


def check_task(task: str) -> None:
    """Whether there is such a task.

    Raises:
        ValueError: There is none.
    """
    if task not in TASKS:
        raise ValueError(f"task must be {' or '.join(map(repr, TASKS))}; found {task!r}")


def width(network: SToFMNetwork, task: str) -> int:
    """Size of what :func:`cells` gives."""
    out = network.project.out_features
    return out if task == "region" else network.in_channels + out


def cells(network: SToFMNetwork, piece: Data, task: str) -> Tensor:
    """Vectors of a piece's core cells, ``[n, width]``; gradients flow to the network.

    For regions, the embedding; for cell types, the cell's own features before it.
    """
    core = piece.core_mask
    z = network(piece)[0][core]
    return z if task == "region" else torch.cat([network.features(piece)[core], z], dim=1)


@torch.no_grad()
def embed_slice(network: SToFMNetwork, tissue: SubSliceDataset, task: str) -> Tensor:
    """:func:`cells` of a whole slice, ``[n, width]``, on the network's device."""
    training, device = network.training, next(network.parameters()).device
    network.eval()
    vectors = torch.empty(len(tissue.part), width(network, task), device=device)
    for piece in tissue:
        piece = piece.to(device)
        vectors[tissue.core_index(piece)] = cells(network, piece, task)
    network.train(training)
    return vectors


def multi_hop_means(vectors: Tensor, tissue: SubSliceDataset, task: str) -> Tensor:
    """Means over 2, 4 and 8 steps on the graph beside each other, ``[n, 3 width]``.

    Nothing, ``[n, 0]``, for cell types.
    """
    if task != "region":
        return vectors[:, :0]
    mean, means = vectors.cpu().numpy(), []
    for hop in range(1, max(_HOPS) + 1):
        mean = tissue.neighbor_mean @ mean
        if hop in _HOPS:
            means.append(mean)
    return torch.from_numpy(np.concatenate(means, axis=1)).to(vectors)


def column_weights(network: SToFMNetwork, task: str) -> Tensor:
    """Weight of each column of vectors and what is :func:`multi_hop_means` them."""
    own = torch.ones(width(network, task) * (1 + len(_HOPS) * (task == "region")))
    if task != "region":
        own[network.in_channels :] = _NICHE
    return own


def hop_masks(network: SToFMNetwork, task: str) -> list[Tensor]:
    """Columns of a classifier that looks 2 steps far, 4 steps, and 8, ``[D]`` bool each.

    For cell types, all of them.
    """
    scale = column_weights(network, task)
    if task != "region":
        return [torch.ones_like(scale, dtype=torch.bool)]
    size, place = width(network, task), torch.arange(len(scale))
    return [place < size * (2 + number) for number in range(len(_HOPS))]


def column_scales(network: SToFMNetwork, std: Tensor, task: str) -> Tensor:
    """What columns are divided by, of their deviations: for regions, each by its own.

    For cell types, a cell's own features by one number, and its embedding by another: principal
    components keep their sizes among each other, so that the small ones, mostly noise, stay small.
    """
    if task == "region":
        return std
    own = network.in_channels
    return torch.cat([p.square().mean().sqrt().expand_as(p) for p in (std[:own], std[own:])])
