"""Layers and graphs to try them on, shared by the files of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from stofm_geo.nn import SE2TransformerConv, SoftOneHotRadial

VECTORS = {"vector_channels": 3, "out_vectors": True}
ALL = {"edge_dim": 3, **VECTORS, "in_vector_channels": 2, "max_order": 3}
OPTIONS: dict[str, dict] = {
    "plain": {},
    "no radial": {"radial": None},
    "edges": {"edge_dim": 3, "concat": False, "root_weight": False},
    "vectors": VECTORS,
    "vectors, no radial": {**VECTORS, "radial": None, "max_order": 1},
    "all": ALL,
    "all, averaged": {**ALL, "concat": False, "root_weight": False, "bias": False},
    "all, soft": {**ALL, "radial": partial(SoftOneHotRadial, cutoff=30.0)},
    "all, reflections": {**ALL, "reflections": True, "out_vectors": False},
}


class Result(NamedTuple):
    """All that a layer can give."""

    x: Tensor
    vectors: Tensor | None
    pair: Tensor
    alpha: Tensor


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> dict:
    """Arguments of a layer, one combination at a time."""
    return OPTIONS[request.param]


@pytest.fixture(scope="session")
def make_conv() -> Callable[..., SE2TransformerConv]:
    """A layer in evaluation, its parameters drawn from a seed."""

    def make(
        in_channels: int | tuple[int, int] = 5,
        out_channels: int = 4,
        heads: int = 3,
        *,
        dtype: torch.dtype = torch.float64,
        **options: object,
    ) -> SE2TransformerConv:
        torch.manual_seed(1)
        return SE2TransformerConv(in_channels, out_channels, heads, **options).to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., dict[str, Tensor | None]]:
    """All that a layer takes of a random graph."""

    def make(
        conv: SE2TransformerConv, n: int = 9, edges: int = 40, seed: int = 0
    ) -> dict[str, Tensor | None]:
        dtype = next(conv.parameters()).dtype
        draw = torch.Generator().manual_seed(seed)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

        incoming = conv.in_vector_channels
        return {
            "x": randn(n, conv.lin_key.in_channels),
            "edge_index": torch.randint(max(n, 1), (2, edges), generator=draw),
            "pos": 3 * randn(n, 2),
            "edge_attr": None if conv.edge_dim is None else randn(edges, conv.edge_dim),
            "vectors": randn(n, conv.max_order, incoming, 2) if incoming else None,
            "pair": randn(edges, conv.heads),
        }

    return make


@pytest.fixture(scope="session")
def attend() -> Callable[..., Result]:
    """Run a layer and name what comes back."""

    def attend(conv: SE2TransformerConv, graph: dict) -> Result:
        out, *vectors, pair, (_, alpha) = conv(
            **graph, return_pair=True, return_attention_weights=True
        )
        return Result(out, vectors[0] if vectors else None, pair, alpha)

    return attend


@pytest.fixture(scope="session")
def leaves_of() -> Callable[[dict], dict[str, Tensor]]:
    """What of a graph has gradients, as fresh leaves."""

    def leaves_of(graph: dict) -> dict[str, Tensor]:
        floats = {k: v for k, v in graph.items() if v is not None and v.is_floating_point()}
        return {key: value.detach().clone().requires_grad_() for key, value in floats.items()}

    return leaves_of


@pytest.fixture(scope="session")
def subset() -> Callable[..., dict]:
    """A graph with its nodes and edges in another order, or some of the edges, or some twice."""

    def subset(graph: dict, node: Tensor | None = None, edge: Tensor | None = None) -> dict:
        new = dict(graph)
        for keys, order in ((("x", "pos", "vectors"), node), (("edge_attr", "pair"), edge)):
            for key in keys if order is not None else ():
                new[key] = None if graph[key] is None else graph[key][order]
        if node is not None:
            new["edge_index"] = node.argsort()[new["edge_index"]]
        if edge is not None:
            new["edge_index"] = new["edge_index"][:, edge]
        return new

    return subset


@pytest.fixture(scope="session")
def turn_vectors() -> Callable[..., Tensor]:
    """Turn vectors ``[N, M, V, 2]``, those of order ``m`` by ``m * angle``, after a mirror."""

    def turn(vectors: Tensor, angle: float, mirror: bool = False) -> Tensor:
        if mirror:
            vectors = vectors * vectors.new_tensor([1.0, -1.0])
        phi = angle * torch.arange(1, vectors.shape[1] + 1, dtype=torch.float64)
        cos, sin = phi.cos().to(vectors)[:, None], phi.sin().to(vectors)[:, None]
        x, y = vectors.unbind(-1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)

    return turn


@pytest.fixture(scope="session")
def move(turn_vectors: Callable[..., Tensor]) -> Callable[..., dict]:
    """Mirror, turn and shift a graph: its positions and its vectors."""

    def move(graph: dict, angle: float, shift: float = 0.0, mirror: bool = False) -> dict:
        pos = turn_vectors(graph["pos"][:, None, None], angle, mirror)[:, 0, 0]
        vectors = graph["vectors"]
        if vectors is not None:
            vectors = turn_vectors(vectors, angle, mirror)
        return {**graph, "pos": pos + shift * pos.new_tensor([1.0, -0.5]), "vectors": vectors}

    return move
