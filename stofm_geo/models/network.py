"""The network: features and positions of a sub-slice in, node embeddings and pair states out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.models.settings import Settings
from stofm_geo.nn import CellHead, DistanceHead, SE2Transformer


class Network(nn.Module):
    """The SE(2) Transformer over cells, virtual cells and CLS, with its heads.

    Args:
        in_channels: Size of the features ``F``.
        settings: Widths and depths.
    """

    def __init__(self, in_channels: int, settings: Settings) -> None:
        super().__init__()
        width = settings.hidden_channels
        self.in_channels = in_channels
        self.embed_features = nn.Linear(in_channels, width)
        self.embed_type = nn.Embedding(3, width)  # one a NodeType
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.transformer = SE2Transformer(
            width, settings.num_layers, settings.heads, settings.num_gaussians, settings.dropout
        )
        self.project = nn.Linear(width, settings.out_channels)
        self.cell_head = CellHead(settings.out_channels, in_channels)
        self.distance_head = DistanceHead(settings.heads)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """Embed.

        Args:
            data: A sub-slice or a batch of them, with ``x``, ``pos``, ``edge_index``,
                ``node_type`` and, in training, ``mask``.

        Returns:
            Embeddings ``[num_nodes, out_channels]`` and the last layer's pair state
            ``[num_edges, heads]``.
        """
        x = self.embed_features(data.x)
        if "mask" in data:
            x = torch.where(data.mask[:, None], self.mask_token, x)
        x = x + self.embed_type(data.node_type)
        x, pair = self.transformer(x, data.edge_index, edge_lengths(data))
        return self.project(x), pair


def edge_lengths(data: Data) -> Tensor:
    """Length of each edge, ``[num_edges]`` float32; 0 for edges of CLS, which has no place."""
    src, dst = data.edge_index
    length = (data.pos[src] - data.pos[dst]).norm(dim=1).float()
    placeless = data.node_type == NodeType.CLS
    return length.masked_fill(placeless[src] | placeless[dst], 0)
