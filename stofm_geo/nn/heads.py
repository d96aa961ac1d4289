"""Heads: what is read from the transformer, beside the node embeddings."""

from __future__ import annotations

from torch import Tensor, nn


class DistanceHead(nn.Sequential):
    """Pair states ``[E, heads]`` to distances ``[E]``."""

    def __init__(self, heads: int) -> None:
        super().__init__(nn.Linear(heads, heads), nn.ReLU(), nn.Linear(heads, 1))

    def forward(self, pair: Tensor) -> Tensor:
        """Predict."""
        return super().forward(pair).squeeze(-1)
