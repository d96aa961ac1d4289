"""The published objectives: features of masked cells, and distances of moved cells.

Some cells of a sub-slice are masked, and a few more are targets without a mask: a head predicts
their features from the embedding, with a cosine loss. Some cells are moved far, and a few more are
targets without a move: a head predicts distances to neighbours from pair states, with a squared
error. Edges are those before the move, as published (arXiv 2507.11588), which reveals what was
moved; :mod:`~stofm_geo.training.objectives.niches` avoids that.

Two things differ from the publication: masked cells get a learned token instead of the value -100,
and their features are left out of the means of macro nodes.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.niches import NicheNetwork
from stofm_geo.networks.stofm import cell_edges
from stofm_geo.nn import niche_features
from stofm_geo.training.objectives._loss import Loss, distance_error
from stofm_geo.transforms import MaskCells, PerturbPositions

_KEPT = 0.03  # fraction of unchanged cells that are targets


class OfficialMasking:
    """Random masking and perturbation of a :class:`~stofm_geo.data.SubSliceDataset` item.

    Sets ``x_true`` ``[N, F]``; ``target_mask`` ``[N]``, the cells to predict; ``distance_mask``
    ``[N]``, the cells whose distances are to be predicted.

    Args:
        config: Ratios of masked and moved cells, and the standard deviation of the noise.
    """

    def __init__(self, config: SToFMConfig) -> None:
        self.transform = Compose(
            [
                PerturbPositions(config.noise_ratio, config.noise_std),
                MaskCells(config.mask_ratio),
            ]
        )

    def __call__(self, subslice: Data) -> Data:
        """Return a masked copy of ``subslice``, drawn with PyTorch's global generator."""
        masked = copy.copy(subslice)
        masked.x_true = subslice.x
        masked = self.transform(masked)
        masked.target_mask, masked.distance_mask = (
            changed | (masked.core_mask & (torch.rand(len(changed)) < _KEPT))
            for changed in (masked.mask, masked.moved)
        )
        return masked


def cell_loss(network: NicheNetwork, data: Data, z: Tensor) -> Loss:
    """Return ``1 - cosine`` between predicted and true features of the target cells.

    The baseline predicts the mean of the visible neighbours.

    Args:
        network: The network that made ``z``, with a ``cell_head``.
        data: A masked sub-slice or a batch of them.
        z: Embeddings ``[num_nodes, out_channels]``.
    """
    true = data.x_true[data.target_mask]
    neighbor_mean = niche_features(data.x, cell_edges(data), ~data.mask)[data.target_mask].chunk(
        3, dim=1
    )[1]
    predicted = network.predict_features(z, data)[data.target_mask]
    error, baseline = (
        1 - F.cosine_similarity(prediction, true) for prediction in (predicted, neighbor_mean)
    )
    return Loss(error.sum(), baseline.sum(), data.target_mask.sum().float())


def pair_loss(network: NicheNetwork, data: Data, pair: Tensor) -> Loss:
    """Return the squared error of distances, in cell spacings, along edges with a target end.

    The baseline is the distance between the perturbed positions.

    Args:
        network: The network that made ``pair``.
        data: A masked sub-slice or a batch of them.
        pair: The last layer's pair state, ``[num_edges, heads]``.
    """
    return distance_error(network, data, pair, data.distance_mask, lambda distance: distance)
