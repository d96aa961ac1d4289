"""Models of problems on graphs in the plane, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv, TransformerConv

from stofm_geo.benchmark.geometry.layers import ORDERS, EGNNVectors, Scalars, SE2Vectors
from stofm_geo.benchmark.geometry.networks import HEADS
from stofm_geo.benchmark.geometry.problems import GraphKind
from stofm_geo.benchmark.geometry.training import PlanarModel
from stofm_geo.benchmark.layers import IgnorePositions, Layer
from stofm_geo.nn import SE2TransformerConv

_CHANNELS = 4  # vectors of each head and order


def of_layer(layer: Layer) -> PlanarModel:
    """Return a model of a layer with ``forward(x, edge_index, pos)``."""
    return PlanarModel(partial(Scalars, layer))


def kinds_of(model: PlanarModel) -> tuple[GraphKind, ...]:
    """Return the kinds of problems that a model solves: without vectors, classes only."""
    has_vectors = model.coordinates or model.orders > 1 or model.zeros > 0
    return ("graph_classes", "displacements", "axes") if has_vectors else ("graph_classes",)


class RelativePositions(nn.Module):
    """Layer of PyG with relative positions as edge features.

    Args:
        conv: Constructor of the layer: sizes of input and output, heads, ``edge_dim``.
        width: Number of features.
    """

    def __init__(self, conv: Callable[..., nn.Module], width: int) -> None:
        super().__init__()
        self.conv = conv(width, width // HEADS, HEADS, edge_dim=2)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Return features ``[N, width]``."""
        return self.conv(x, edge_index, pos[edge_index[0]] - pos[edge_index[1]])


def _stock(conv: Callable[..., nn.Module], width: int) -> nn.Module:
    return IgnorePositions(conv(width, width // HEADS, HEADS))


def _distances(width: int) -> nn.Module:
    return SE2TransformerConv(width, width // HEADS, HEADS)


_VECTORS = partial(SE2Vectors, channels=_CHANNELS)
MODELS: dict[str, PlanarModel] = {
    "EGNN": PlanarModel(EGNNVectors, zeros=1),
    "SE2TransformerConv": of_layer(_distances),
    "SE2TransformerConv (vectors)": PlanarModel(_VECTORS, orders=ORDERS),
    "SE2TransformerConv (vectors of E(2))": PlanarModel(
        partial(_VECTORS, reflections=True), orders=ORDERS
    ),
}
for _name, _conv in (("GATv2", GATv2Conv), ("TransformerConv", TransformerConv)):
    MODELS[_name] = PlanarModel(partial(Scalars, partial(_stock, _conv)))
    # Coordinates in the graph, and relative to neighbours: all that these layers can be told.
    _layer = partial(Scalars, partial(RelativePositions, _conv))
    MODELS[f"{_name} (coordinates)"] = PlanarModel(_layer, coordinates=True)
    MODELS[f"{_name} (coordinates + rotations)"] = PlanarModel(
        _layer, coordinates=True, rotate=True
    )
