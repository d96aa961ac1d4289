"""The objectives of self-supervision: niches of hidden cells, and distances of moved ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.models.network import Network, cell_edges
from stofm_geo.nn import niche


class Loss(NamedTuple):
    """A sum of squared errors, that of guessing plainly, and over how many numbers."""

    error: Tensor
    plain: Tensor
    count: Tensor


def niche_loss(network: Network, data: Data, z: Tensor) -> Loss:
    """Of the core cells' niches; plain is the guess by averages over what is visible.

    Args:
        network: Made ``z``.
        data: A puzzle or a batch of them.
        z: Embeddings ``[num_nodes, out_channels]``.
    """
    core = data.core_mask
    true = network.asked(data.niche[core])
    with torch.no_grad():
        averages = network.asked(niche(data.x, cell_edges(data), ~data.mask)[core])
        plain = (averages - true).square().sum()
    error = (network.estimates(z, data)[core] - true).square().sum()
    return Loss(error, plain, torch.tensor(float(true.numel()), device=z.device))


def distance_loss(network: Network, data: Data, pair: Tensor) -> Loss:
    """Of ``log(1 + distance)`` between the ends of edges of which one was moved.

    Plain is to believe what is seen.

    Args:
        network: Made ``pair``.
        data: A puzzle or a batch of them.
        pair: The last layer's pair state, ``[num_edges, heads]``.
    """
    src, dst = data.edge_index
    cells = data.node_type == NodeType.CELL
    asked = (data.moved[src] | data.moved[dst]) & cells[src] & cells[dst]
    src, dst = src[asked], dst[asked]
    true = (data.pos_target[src] - data.pos_target[dst]).norm(dim=1).float().log1p()
    seen = (data.pos[src] - data.pos[dst]).norm(dim=1).float().log1p()
    error = (network.distance_head(pair[asked]) - true).square().sum()
    return Loss(error, (seen - true).square().sum(), asked.sum().float())
