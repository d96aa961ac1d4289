"""Inputs of a classifier: embeddings of cells and their means over several hops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.data import SubSliceDataset
from stofm_geo.networks.stofm import SToFMNetwork

TASKS = ("region", "cell_type")
_HOPS = (2, 4, 8)  # additional averages of embeddings, for regions
# A cell type is a property of the cell; its surroundings add little, so their weight is small.
_CELL_WEIGHTS = {"niche": 0.1, "context": 0.3}


def check_task(task: str) -> None:
    """Check the name of a task.

    Raises:
        ValueError: The task is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"task must be {' or '.join(map(repr, TASKS))}; found {task!r}")


def columns(network: SToFMNetwork, task: str) -> dict[str, tuple[int, int]]:
    """Return first and last column, exclusive, of each part of :func:`cells`, by name.

    For regions, they are those of an embedding; for cell types, the cell's features come first.
    """
    if task == "region":
        return network.columns
    own = network.in_channels
    shifted = {name: (own + i, own + j) for name, (i, j) in network.columns.items()}
    return {"features": (0, own), **shifted}


def width(network: SToFMNetwork, task: str) -> int:
    """Return the number of columns of :func:`cells`."""
    return max(end for _, end in columns(network, task).values())


def cells(network: SToFMNetwork, subslice: Data, task: str) -> Tensor:
    """Return vectors of the core cells of a sub-slice, ``[n, width]``, with gradients.

    For regions, these are embeddings; for cell types, features followed by embeddings.
    """
    core = subslice.core_mask
    z = network(subslice)[0][core]
    return z if task == "region" else torch.cat([network.features(subslice)[core], z], dim=1)


@torch.no_grad()
def embed_slice(network: SToFMNetwork, tissue: SubSliceDataset, task: str) -> Tensor:
    """Return :func:`cells` of a whole slice, ``[n, width]``, on the network's device."""
    training, device = network.training, next(network.parameters()).device
    network.eval()
    vectors = torch.empty(len(tissue.part), width(network, task), device=device)
    for subslice in tissue:
        subslice = subslice.to(device)
        vectors[tissue.core_index(subslice)] = cells(network, subslice, task)
    network.train(training)
    return vectors


def multi_hop_means(vectors: Tensor, tissue: SubSliceDataset, task: str) -> Tensor:
    """Return means over 2, 4 and 8 hops, concatenated, ``[n, 3 width]``.

    Empty, ``[n, 0]``, for cell types.
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
    """Return the weight of each column of vectors and their :func:`multi_hop_means`."""
    weights = torch.ones(width(network, task) * (1 + len(_HOPS) * (task == "region")))
    if task != "region":
        for name, (start, end) in columns(network, task).items():
            weights[start:end] = _CELL_WEIGHTS.get(name, 1.0)
    return weights


def column_masks(network: SToFMNetwork, task: str, whole: bool) -> list[Tensor]:
    """Return masks ``[D]`` bool of the columns that a classifier may read, from few to all.

    For regions, they are niches, without and with denoised features, and their means up to 2, 4
    and 8 hops; for cell types, features and niche, then the denoised features, then the context.

    Args:
        network: Network whose vectors are read.
        task: ``"region"`` or ``"cell_type"``.
        whole: Whether whole vectors are read, as for a network that is trained further.
    """
    size, every = width(network, task), torch.arange(len(column_weights(network, task)))
    ends = [end for _, end in columns(network, task).values()]
    if task != "region":
        return [every < end for end in (ends[-1:] if whole else ends[1:])]
    parts = [every % size < end for end in (ends[-1:] if whole else ends[:2])]
    return [part & (every < size * (2 + hop)) for part in parts for hop in range(len(_HOPS))]


def column_parts(network: SToFMNetwork, task: str) -> list[tuple[int, int]]:
    """Return first and last column, exclusive, of each part of vectors and their means."""
    size, parts = width(network, task), columns(network, task).values()
    starts = range(0, len(column_weights(network, task)), size)
    return [(start + first, start + end) for start in starts for first, end in parts]
