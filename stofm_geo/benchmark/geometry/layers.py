"""Layers of the networks for graphs in the plane, with vectors in and out.

Each has ``out_vectors``, the number of its vectors of an order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from stofm_geo.benchmark.geometry.networks import HEADS
from stofm_geo.benchmark.layers import Layer, checked
from stofm_geo.nn import SE2TransformerConv

ORDERS = 2  # circular orders of the vectors


class Scalars(nn.Module):
    """Layer without vectors, which passes on those of the input.

    Args:
        layer: Function from a width to a layer with ``forward(x, edge_index, pos)``.
        width: Number of features.
        vectors: Number of input vectors ``V``.
    """

    def __init__(self, layer: Layer, width: int, vectors: int) -> None:
        super().__init__()
        self.layer = layer(width)
        self.out_vectors = vectors

    def forward(
        self, x: Tensor, edge_index: Tensor, pos: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return an update of the features ``[N, width]``, and the vectors ``[N, 1, V, 2]``."""
        return checked(self.layer(x, edge_index, pos=pos), x), vectors


class SE2Vectors(nn.Module):
    """Layer of this library with vectors, which are added to those of the layer before.

    Args:
        width: Number of features.
        vectors: Number of input vectors of each order.
        channels: Vectors of each head and order.
        reflections: See :class:`~stofm_geo.nn.SE2TransformerConv`.
    """

    def __init__(
        self, width: int, vectors: int, *, channels: int, reflections: bool = False
    ) -> None:
        super().__init__()
        self.out_vectors = channels * HEADS
        self.conv = SE2TransformerConv(
            width,
            width // HEADS,
            HEADS,
            vector_channels=channels,
            max_order=ORDERS,
            in_vector_channels=vectors,
            out_vectors=True,
            reflections=reflections,
        )

    def forward(
        self, x: Tensor, edge_index: Tensor, pos: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return an update of the features ``[N, width]``, and vectors ``[N, 2, V, 2]``."""
        update, new = self.conv(x, edge_index, pos=pos, vectors=vectors)
        if vectors is not None and vectors.shape == new.shape:
            new = vectors + new
        return update, new


class EGNNVectors(MessagePassing):
    r"""EGNN with moving nodes and velocities (Satorras et al., arXiv 2102.09844, equation 7).

    .. math::
        m_{ij} = \phi_e(h_i, h_j, d_{ij}^2), \quad
        u_i' = u_i + \phi_v(h_i) \cdot v_i
        + \frac{1}{n_i} \textstyle\sum_j (p_i + u_i - p_j - u_j) \, \phi_x(m_{ij}), \quad
        h_i' = \phi_h\big(h_i, \frac{1}{n_i} \textstyle\sum_j \sigma(a^\top m_{ij}) \, m_{ij}\big)

    where the vectors :math:`v_i` are those of the input, :math:`u_i`, at first 0, is how far the
    node has moved, and :math:`d_{ij}` is the distance of moved nodes.

    Args:
        width: Number of features.
        vectors: Number of input vectors, the last of which is the movement.
    """

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__(aggr="mean")
        self.out_vectors = vectors
        self.target, self.source = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.distance = nn.Linear(1, width, bias=False)
        self.message_net = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.gate = nn.Linear(width, 1)
        self.move = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.speed = nn.Linear(width, vectors - 1) if vectors > 1 else None
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, x: Tensor, edge_index: Tensor, pos: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return an update of the features ``[N, width]``, and vectors ``[N, 1, V, 2]``."""
        assert vectors is not None
        inputs, moved = vectors[:, :, :-1], vectors[:, 0, -1]
        sums = self.propagate(
            edge_index, target=self.target(x), source=self.source(x), at=pos + moved
        )
        moved = moved + sums[:, :2]
        if self.speed is not None:
            moved = moved + (self.speed(x)[:, None, :, None] * inputs).sum(dim=(1, 2))
        update = self.node(torch.cat([x, sums[:, 2:]], dim=1))
        return update, torch.cat([inputs, moved[:, None, None]], dim=2)

    def message(self, target_i: Tensor, source_j: Tensor, at_i: Tensor, at_j: Tensor) -> Tensor:
        """Return movement and message of each edge, ``[E, 2 + width]``."""
        delta = at_i - at_j
        distance = self.distance(delta.square().sum(dim=1, keepdim=True))
        message = self.message_net(target_i + source_j + distance)
        move = delta * self.move(message)
        return torch.cat([move, self.gate(message).sigmoid() * message], dim=1)
