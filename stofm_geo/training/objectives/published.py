"""The published objectives on our graphs: vectors of hidden cells, and distances of moved ones.

Of a sub-slice's cells some are hidden and a few more asked for as they are, by the cosine of what a
head makes of the embedding with the cell's own features. Some are moved far, and a few more
measured as they are: a head makes distances to neighbours of their pair states, by the squared
error. The neighbours stay those before the move, which tells what was moved; so it is published
(arXiv 2507.11588), and why :mod:`~stofm_geo.training.objectives.niches` asks otherwise.

Two things are not as published: a hidden cell is a learned token, not the number -100, and its
features are taken out of the means that virtual cells have.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork, cell_edges
from stofm_geo.nn import niche_features
from stofm_geo.training.objectives.loss import Loss
from stofm_geo.transforms import MaskCells, PerturbPositions

_KEPT = 0.03  # of the cells, that are asked for as they are


class OfficialMasking:
    """Makes a puzzle of a piece (:class:`~stofm_geo.data.SubSliceDataset`), another one each time.

    Sets ``x_true`` ``[N, F]``; ``target_mask`` ``[N]``, the cells to be guessed; ``distance_mask`` ``[N]``,
    those whose distances are.

    Args:
        config: Shares, and how far cells are moved.
    """

    def __init__(self, config: SToFMConfig) -> None:
        self.transform = Compose(
            [
                PerturbPositions(config.move_share, config.move_sigma),
                MaskCells(config.mask_share),
            ]
        )

    def __call__(self, piece: Data) -> Data:
        """Return a masked copy of ``piece``, drawn with PyTorch's global generator."""
        puzzle = copy.copy(piece)
        puzzle.x_true = piece.x
        puzzle = self.transform(puzzle)
        puzzle.target_mask, puzzle.distance_mask = (
            changed | (puzzle.core_mask & (torch.rand(len(changed)) < _KEPT))
            for changed in (puzzle.mask, puzzle.moved)
        )
        return puzzle


def cell_loss(network: SToFMNetwork, data: Data, z: Tensor) -> Loss:
    """Return ``1 - cosine`` between predicted and true features of the target cells.

    The baseline predicts the mean of the visible neighbours.

    Args:
        network: The network that made ``z``, with a ``cell_head``.
        data: A puzzle or a batch of them.
        z: Embeddings ``[num_nodes, out_channels]``.
    """
    true = data.x_true[data.target_mask]
    near = niche_features(data.x, cell_edges(data), ~data.mask)[data.target_mask].chunk(3, dim=1)[1]
    found = network.predict_features(z, data)[data.target_mask]
    error, baseline = (1 - F.cosine_similarity(guess, true) for guess in (found, near))
    return Loss(error.sum(), baseline.sum(), data.target_mask.sum().float())


def pair_loss(network: SToFMNetwork, data: Data, pair: Tensor) -> Loss:
    """Return the squared error of distances, in cell spacings, along edges with a target end.

    The baseline is the distance between the perturbed positions.

    Args:
        network: The network that made ``pair``.
        data: A puzzle or a batch of them.
        pair: The last layer's pair state, ``[num_edges, heads]``.
    """
    src, dst = data.edge_index
    cells = data.node_type == NodeType.CELL
    asked = (data.distance_mask[src] | data.distance_mask[dst]) & cells[src] & cells[dst]
    src, dst = src[asked], dst[asked]
    true = (data.pos_target[src] - data.pos_target[dst]).norm(dim=1).float()
    seen = (data.pos[src] - data.pos[dst]).norm(dim=1).float()
    error = (network.distance_head(pair[asked]) - true).square().sum()
    return Loss(error, (seen - true).square().sum(), asked.sum().float())
