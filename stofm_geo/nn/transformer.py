"""The SE(2) Transformer: a stack of attention layers over the edges of a tissue graph."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from stofm_geo.nn.conv import SE2TransformerConv
from stofm_geo.nn.radial import GaussianRadialBias


class SE2Transformer(nn.Module):
    """Attention blocks over edges, the pair state carried from layer to layer.

    Blocks are pre-norm (the published model is post-norm; pre-norm trains from scratch without
    warm-up): ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``, and a last norm.

    Args:
        channels: Size of the node features, in and out.
        num_layers: Number of blocks.
        heads: Heads of the attention, and size of the pair state.
        num_gaussians: Of the radial bias.
        dropout: Share of the outputs of each sub-block dropped in training.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int = 3,
        heads: int = 8,
        num_gaussians: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.radial = GaussianRadialBias(heads, num_gaussians)
        self.blocks = nn.ModuleList(_Block(channels, heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        reset(self.radial)
        reset(self.blocks)
        reset(self.norm)

    def forward(self, x: Tensor, edge_index: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks.

        Args:
            x: Node features, ``[N, channels]``.
            edge_index: ``[2, E]``, from source to destination.
            distance: Length of each edge, ``[E]``; 0 where it has none (edges of CLS).

        Returns:
            Node features ``[N, channels]`` and the last pair state ``[E, heads]``.
        """
        pair = self.radial(distance)
        for block in self.blocks:
            x, pair = block(x, edge_index, pair)
        return self.norm(x), pair


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SE2TransformerConv(channels, heads, dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.Dropout(dropout),
        )

    def reset_parameters(self) -> None:
        for part in (self.norm1, self.attention, self.norm2, self.feed_forward):
            reset(part)

    def forward(self, x: Tensor, edge_index: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        message, pair = self.attention(self.norm1(x), edge_index, pair)
        x = x + message
        return x + self.feed_forward(self.norm2(x)), pair
