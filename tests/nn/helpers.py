"""Layers and graphs to try them on, shared by the files of this folder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stofm_geo.nn import SE2TransformerConv


class Result(NamedTuple):
    """All that a layer can give."""

    x: Tensor
    vectors: Tensor | None
    pair: Tensor
    alpha: Tensor


def make_conv(
    in_channels: int | tuple[int, int] = 5,
    out_channels: int = 4,
    heads: int = 3,
    *,
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> SE2TransformerConv:
    """Return a layer in evaluation mode, its parameters drawn from a seed."""
    torch.manual_seed(1)
    return SE2TransformerConv(in_channels, out_channels, heads, **options).to(dtype).eval()


def make_graph(
    conv: SE2TransformerConv, n: int = 9, edges: int = 40, seed: int = 0
) -> dict[str, Tensor | None]:
    """Return all that a layer takes of a random graph."""
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


def attend(conv: SE2TransformerConv, graph: dict) -> Result:
    """Return what a layer gives for a graph, by name."""
    out, *vectors, pair, (_, alpha) = conv(**graph, return_pair=True, return_attention_weights=True)
    return Result(out, vectors[0] if vectors else None, pair, alpha)


def leaves_of(graph: dict) -> dict[str, Tensor]:
    """Return the floating-point tensors of a graph as new leaves."""
    floats = {k: v for k, v in graph.items() if v is not None and v.is_floating_point()}
    return {key: value.detach().clone().requires_grad_() for key, value in floats.items()}


def subset(graph: dict, node: Tensor | None = None, edge: Tensor | None = None) -> dict:
    """Return a graph with nodes and edges in another order, or some edges, or some twice."""
    new = dict(graph)
    for keys, order in ((("x", "pos", "vectors"), node), (("edge_attr", "pair"), edge)):
        for key in keys if order is not None else ():
            new[key] = None if graph[key] is None else graph[key][order]
    if node is not None:
        new["edge_index"] = node.argsort()[new["edge_index"]]
    if edge is not None:
        new["edge_index"] = new["edge_index"][:, edge]
    return new


def turn_vectors(vectors: Tensor, angle: float, mirror: bool = False) -> Tensor:
    """Return vectors ``[N, M, V, 2]``, mirrored, then those of order ``m`` turned ``m * angle``."""
    if mirror:
        vectors = vectors * vectors.new_tensor([1.0, -1.0])
    phi = angle * torch.arange(1, vectors.shape[1] + 1, dtype=torch.float64)
    cos, sin = phi.cos().to(vectors)[:, None], phi.sin().to(vectors)[:, None]
    x, y = vectors.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)


def move(graph: dict, angle: float, shift: float = 0.0, mirror: bool = False) -> dict:
    """Return a graph mirrored, turned and shifted: its positions and its vectors."""
    pos = turn_vectors(graph["pos"][:, None, None], angle, mirror)[:, 0, 0]
    vectors = graph["vectors"]
    if vectors is not None:
        vectors = turn_vectors(vectors, angle, mirror)
    return {**graph, "pos": pos + shift * pos.new_tensor([1.0, -0.5]), "vectors": vectors}
