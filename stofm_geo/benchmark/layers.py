"""Compared layers, each with ``forward(x, edge_index, pos)`` from and to ``[N, width]``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import (
    GATv2Conv,
    GCNConv,
    GINEConv,
    GPSConv,
    MessagePassing,
    SAGEConv,
    TransformerConv,
)

from stofm_geo.nn import SE2Transformer, SE2TransformerConv

DEPTH, HEADS = 3, 8
_DROPOUT = 0.3
_VECTORS = 4  # vector channels per head

Layer = Callable[[int], nn.Module]


class IgnorePositions(nn.Module):
    """Wrapper of a layer without positions that accepts and ignores them.

    Args:
        conv: Layer with ``forward(x, edge_index)``.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        return self.conv(x, edge_index)


class NodeMLP(nn.Module):
    """Linear layer of each node, without its neighbours.

    Args:
        width: Number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        return self.linear(x)


class GPS(nn.Module):
    """GPS (arXiv 2205.12454): GINE on edges and their lengths, and attention between all nodes.

    Args:
        width: Number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        update = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.conv = GPSConv(width, GINEConv(update, edge_dim=1), heads=HEADS, norm="layer_norm")

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        src, dst = edge_index
        return self.conv(x, edge_index, edge_attr=(pos[src] - pos[dst]).norm(dim=1, keepdim=True))


class EGNN(MessagePassing):
    r"""E(n)-equivariant message passing (Satorras et al., arXiv 2102.09844, without moving nodes).

    .. math::
        m_{ij} = \phi_e(h_i, h_j, \lVert p_i - p_j \rVert^2), \quad
        h_i' = \phi_h\big(h_i, \textstyle\sum_j \sigma(a^\top m_{ij})\, m_{ij}\big)

    Args:
        width: Number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__(aggr="mean")
        self.edge = nn.Linear(2 * width + 1, width)
        self.gate = nn.Linear(width, 1)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        # The first linear map is a sum over node and edge terms; node terms are computed per node.
        w_target, w_source, w_distance = self.edge.weight.split([x.size(1), x.size(1), 1], dim=1)
        target, source = F.linear(x, w_target, self.edge.bias), F.linear(x, w_source)
        sums = self.propagate(
            edge_index, target=target, source=source, pos=pos, w_distance=w_distance.t()
        )
        return self.node(torch.cat([x, sums], dim=1))

    def message(
        self,
        target_i: Tensor,
        source_j: Tensor,
        pos_i: Tensor,
        pos_j: Tensor,
        w_distance: Tensor,
    ) -> Tensor:
        """Return the message of each edge, ``[E, width]``."""
        distance = (pos_i - pos_j).square().sum(dim=1, keepdim=True)
        message = F.silu(target_i + source_j + distance * w_distance)
        return self.gate(message).sigmoid() * message


LAYERS: dict[str, Layer] = {
    "MLP": NodeMLP,
    "GCN": lambda width: IgnorePositions(GCNConv(width, width)),
    "GraphSAGE": lambda width: IgnorePositions(SAGEConv(width, width)),
    "GATv2": lambda width: IgnorePositions(GATv2Conv(width, width // HEADS, HEADS)),
    "TransformerConv": lambda width: IgnorePositions(TransformerConv(width, width // HEADS, HEADS)),
    "GPS": GPS,
    "EGNN": EGNN,
    "SE2TransformerConv": lambda width: SE2TransformerConv(width, width // HEADS, HEADS),
    "SE2TransformerConv (vectors)": lambda width: SE2TransformerConv(
        width, width // HEADS, HEADS, vector_channels=_VECTORS
    ),
}


def checked(out: object, x: Tensor) -> Tensor:
    """Return the output of a layer.

    Raises:
        ValueError: It is not a tensor of the shape of its input ``x``.
    """
    if not isinstance(out, Tensor) or out.shape != x.shape:
        found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"a layer must return a tensor {list(x.shape)}; found {found}")
    return out


class Stack(nn.Module):
    """Stack of three residual layers with layer normalisation before each.

    Args:
        layer: Function from a width to a layer.
        width: Number of features.
    """

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(width) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(DEPTH))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + self.dropout(checked(layer(norm(x), edge_index, pos=pos), x).relu())
        return x


class SE2(nn.Module):
    """SE(2) Transformer of three blocks, which pass on the pair state.

    Args:
        width: Number of features.
        vectors: Whether to use vector channels, a quarter of the width.
    """

    def __init__(self, width: int, vectors: bool) -> None:
        super().__init__()
        channels = max(width // 4 // HEADS, 1) * HEADS if vectors else 0
        self.blocks = SE2Transformer(
            width, DEPTH, HEADS, vector_channels=channels, dropout=_DROPOUT
        )

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        return self.blocks(x, edge_index, pos).x
