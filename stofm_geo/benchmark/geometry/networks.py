"""Networks for graphs in the plane: of any layer, with or without vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import global_mean_pool

from stofm_geo.nn.geometry import circular_harmonics

DEPTH, HEADS = 4, 4


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs and outputs of a network.

    Attributes:
        features: Node features.
        vectors: Vectors of each node.
        outputs: Classes of a graph; 0 for a vector of each node.
    """

    features: int
    vectors: int
    outputs: int


class GraphNetwork(nn.Module):
    """Residual blocks of a layer and a feed-forward network, then an output for a graph or a node.

    Layers without vectors see positions only as they use them, so that they cannot predict vectors.
    With ``coordinates``, positions about the centre of the graph and input vectors are features of
    the nodes, and an output vector is a linear map of the last features.

    Args:
        layer: Function from a width and a number of input vectors ``V`` to a module
            ``forward(x, edge_index, pos, vectors)``, which returns an update of ``x`` and new
            vectors; vectors are ``[N, orders, V, 2]``, or ``None``. See
            :mod:`stofm_geo.benchmark.geometry.layers`.
        sizes: Sizes of inputs and outputs.
        width: Number of features; a multiple of 4.
        coordinates: Whether coordinates are features.
        orders: Highest circular order of the vectors.
        zeros: Number of vectors of 0 that the first layer gets beside those of the input.
    """

    def __init__(
        self,
        layer: Callable[[int, int], nn.Module],
        sizes: Sizes,
        width: int,
        coordinates: bool = False,
        orders: int = 1,
        zeros: int = 0,
    ) -> None:
        super().__init__()
        self.coordinates = coordinates
        features = sizes.features + sizes.vectors + coordinates * 2 * (1 + sizes.vectors)
        self.first = nn.Linear(features, width)
        self.orders, self.zeros = orders, zeros
        vectors = sizes.vectors + zeros
        self.layers = nn.ModuleList()
        for _ in range(DEPTH):
            self.layers.append(layer(width, vectors))
            vectors = self.layers[-1].out_vectors  # type: ignore[assignment]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * DEPTH + 1))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(DEPTH)
        )
        self.outputs = sizes.outputs
        if sizes.outputs:
            self.out: nn.Module = nn.Sequential(
                nn.Linear(width, width), nn.SiLU(), nn.Linear(width, sizes.outputs)
            )
        else:
            self.out = nn.Linear(width, 2 if coordinates else vectors)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits ``[graphs, outputs]``, or a vector of each node ``[N, 2]``."""
        x, vectors = self.first(self._features(batch)), self._vectors(batch)
        norms = iter(self.norms)
        for layer, feed_forward in zip(self.layers, self.feed_forward, strict=True):
            update, vectors = layer(next(norms)(x), batch.edge_index, batch.pos, vectors)
            x = x + update
            x = x + feed_forward(next(norms)(x))
        x = next(norms)(x)
        if self.outputs:
            return self.out(global_mean_pool(x, batch.batch))
        if self.coordinates:
            return self.out(x)
        if vectors is None:
            raise TypeError("the layer has no vectors; use coordinates, or predict classes")
        return (self.out(x)[:, :, None] * vectors[:, 0]).sum(dim=1)

    def _features(self, batch: Batch) -> Tensor:
        inputs = [batch.x]
        vectors = batch.get("vectors")
        if vectors is not None:
            inputs.append(vectors.norm(dim=2))
        if self.coordinates:
            inputs.append(batch.pos - global_mean_pool(batch.pos, batch.batch)[batch.batch])
            if vectors is not None:
                inputs.append(vectors.flatten(1))
        return torch.cat(inputs, dim=1)

    def _vectors(self, batch: Batch) -> Tensor | None:
        """Return the input vectors with their circular powers, ``[N, orders, V, 2]``."""
        parts = []
        if "vectors" in batch:
            length = batch.vectors.norm(dim=2, keepdim=True)
            unit = (batch.vectors / length.clamp_min(1e-12)).flatten(0, 1)
            harmonics = circular_harmonics(unit, self.orders).unflatten(0, length.shape[:2])
            parts.append(length[:, None] * harmonics.transpose(1, 2))
        if self.zeros:
            parts.append(batch.pos.new_zeros(batch.num_nodes, self.orders, self.zeros, 2))
        return torch.cat(parts, dim=2) if parts else None
