"""Losses as sums, so that batches of any size, on any rank, add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.networks.niches import NicheNetwork


class Loss(NamedTuple):
    """Sum of errors, sum of errors of a baseline, and number of values."""

    error: Tensor
    baseline: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count


def distance_error(
    network: NicheNetwork,
    data: Data,
    pair: Tensor,
    target: Tensor,
    scale: Callable[[Tensor], Tensor],
) -> Loss:
    """Return the squared error of distances along edges between cells with a target end.

    The baseline is the distance between the perturbed positions.

    Args:
        network: The network that made ``pair``.
        data: A masked sub-slice or a batch of them.
        pair: The last layer's pair state, ``[num_edges, heads]``.
        target: Target nodes, ``[num_nodes]`` bool.
        scale: Applied to distances, in cell spacings, before they are compared.
    """
    src, dst = data.edge_index
    cells = data.node_type == NodeType.CELL
    edges = (target[src] | target[dst]) & cells[src] & cells[dst]
    src, dst = src[edges], dst[edges]
    true, perturbed = (
        scale((pos[src] - pos[dst]).norm(dim=1).float()) for pos in (data.pos_target, data.pos)
    )
    error = (network.distance_head(pair[edges]) - true).square().sum()
    return Loss(error, (perturbed - true).square().sum(), edges.sum().float())
