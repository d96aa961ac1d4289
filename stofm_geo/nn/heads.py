"""Prediction heads on the outputs of the transformer."""

from __future__ import annotations

from torch import Tensor, nn


class CellHead(nn.Sequential):
    """MLP from node embeddings ``[N, channels]`` to features of cells ``[N, out_channels]``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out_channels)
        )


class DistanceHead(nn.Sequential):
    """MLP from pair states ``[E, heads]`` to distances ``[E]``."""

    def __init__(self, heads: int) -> None:
        super().__init__(nn.Linear(heads, heads), nn.ReLU(), nn.Linear(heads, 1))

    def forward(self, pair: Tensor) -> Tensor:
        """Predict distances."""
        return super().forward(pair).squeeze(-1)
