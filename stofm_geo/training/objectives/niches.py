"""Leak-free objectives: niches of masked cells, distances of moved cells."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.niches import NicheNetwork
from stofm_geo.networks.stofm import cell_edges
from stofm_geo.nn import niche_features
from stofm_geo.training.objectives._loss import Loss, distance_error
from stofm_geo.transforms import MaskCells, PerturbPositions, SpatialKNN


class NicheMasking:
    """Random perturbation and masking of a :class:`~stofm_geo.data.SubSliceDataset` item.

    Sets ``niche``, the target of core cells, from the unchanged sub-slice. Then it moves some
    cells, builds the graph of the moved positions (the true one would leak them), and masks some
    cells.

    Args:
        config: Ratios of masked and moved cells, and the standard deviation of the noise.
    """

    def __init__(self, config: SToFMConfig) -> None:
        self.transform = Compose(
            [
                PerturbPositions(config.noise_ratio, config.noise_std),
                SpatialKNN(config.k),
                MaskCells(config.mask_ratio),
            ]
        )

    def __call__(self, subslice: Data) -> Data:
        """Return a masked copy of ``subslice``, drawn with PyTorch's global generator."""
        subslice = copy.copy(subslice)
        # The halo has two hops, so that niches of core cells are those of the whole slice.
        subslice.niche = niche_features(subslice.x, cell_edges(subslice))
        return self.transform(subslice)


def niche_loss(network: NicheNetwork, data: Data, z: Tensor) -> Loss:
    """Return the squared error of the core cells' niche features.

    The baseline predicts the averages over the visible cells.

    Args:
        network: The network that made ``z``.
        data: A masked sub-slice or a batch of them.
        z: Embeddings ``[num_nodes, out_channels]``.
    """
    core = data.core_mask
    true = network.niche_target(data.niche[core])
    with torch.no_grad():
        averages = network.niche_target(niche_features(data.x, cell_edges(data), ~data.mask)[core])
        baseline = (averages - true).square().sum()
    error = (network.decode_niche(z, data)[core] - true).square().sum()
    return Loss(error, baseline, torch.tensor(float(true.numel()), device=z.device))


def distance_loss(network: NicheNetwork, data: Data, pair: Tensor) -> Loss:
    """Return the squared error of ``log(1 + distance)`` along edges with a moved end.

    The baseline is the distance between the perturbed positions.

    Args:
        network: The network that made ``pair``.
        data: A masked sub-slice or a batch of them.
        pair: The last layer's pair state, ``[num_edges, heads]``.
    """
    return distance_error(network, data, pair, data.moved, torch.log1p)
