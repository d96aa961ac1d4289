"""Prediction heads on the outputs of the transformer."""

from __future__ import annotations

from torch import Tensor, nn


class CellHead(nn.Sequential):
    """MLP from node embeddings ``[N, channels]`` to features of cells ``[N, out_channels]``.

    Args:
        channels: Size of a node embedding.
        out_channels: Number of features of a cell.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import CellHead
        >>> CellHead(64, 30)(torch.zeros(5, 64)).shape
        torch.Size([5, 30])
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out_channels)
        )


class DistanceHead(nn.Sequential):
    """MLP from pair states ``[E, heads]`` to distances ``[E]``.

    Args:
        heads: Size of a pair state, the number of attention heads.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import DistanceHead
        >>> DistanceHead(8)(torch.zeros(7, 8)).shape
        torch.Size([7])
    """

    def __init__(self, heads: int) -> None:
        super().__init__(nn.Linear(heads, heads), nn.ReLU(), nn.Linear(heads, 1))

    def forward(self, pair: Tensor) -> Tensor:
        """Predict distances."""
        return super().forward(pair).squeeze(-1)
