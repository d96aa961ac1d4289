"""The encoders that are compared: the library's, and the published function, ours and theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import scatter

import stofm_geo.transforms as T
from benchmarks.speed._reference import published_model
from stofm_geo.models.official import OfficialNetwork
from stofm_geo.models.official.network import Config
from stofm_geo.models.official.pairs import known_distance_pairs
from stofm_geo.models.official.slices import UNKNOWN_DISTANCE
from stofm_geo.nn import GaussianRadial, SE2Transformer

LAYERS, CHANNELS, HEADS, GAUSSIANS = 4, 256, 8, 128
CELL, CLS, MACRO = 0, 1, 2
ASKED = 0.15  # of the cells, whose pairs the distance loss asks for


class Slice:
    """CLS, virtual cells and cells, in the published order and the published units."""

    def __init__(self, cells: int, macro: int) -> None:
        draw = torch.Generator().manual_seed(0)
        place = torch.rand(cells, 2, generator=draw) - 0.5
        side = max(int(macro**0.5), 1)
        square = ((place + 0.5) * side).long()
        cluster = (square[:, 0] * side + square[:, 1]) % macro
        centre = scatter(place, cluster, dim_size=macro, reduce="mean")
        self.pos = torch.cat([torch.zeros(1, 2), centre, place]) * 100 / 2**0.5
        self.kind = torch.tensor([CLS] + [MACRO] * macro + [CELL] * cells)
        self.x = torch.randn(len(self.kind), CHANNELS, generator=draw)

    def library(self) -> Tensor:
        """Edges as ``SpatialKNN`` and ``MacroNodes`` make them."""
        near = T.SpatialKNN(12)(Data(pos=self.pos, node_type=self.kind))
        return T.JoinMacroNodes()(near).edge_index

    def told(self) -> tuple[Tensor, Tensor]:
        """The published pairs with a distance of their own as edges, and these distances."""
        return known_distance_pairs(self.pos.double().numpy(), int((self.kind != CELL).sum()))

    def matrix(self) -> Tensor:
        """The published matrix of distances."""
        n, ((src, dst), distance) = len(self.pos), self.told()
        return torch.full((n, n), UNKNOWN_DISTANCE).index_put((dst, src), distance)


class Ours(nn.Module):
    """The library's transformer, with the same maps before it as the published one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(CHANNELS, CHANNELS)
        self.kind = nn.Embedding(3, CHANNELS)
        radial = partial(GaussianRadial, num_gaussians=GAUSSIANS)
        self.transformer = SE2Transformer(
            CHANNELS, LAYERS, HEADS, radial=radial, norm="post", dropout=0.0
        )

    def forward(self, x: Tensor, kind: Tensor, edge_index: Tensor, pos: Tensor) -> list[Tensor]:
        """Node outputs and pair states."""
        out = self.transformer(self.embedding(x) + self.kind(kind), edge_index, pos)
        return [out.x, out.pair]


def config() -> dict[str, Any]:
    """Of the published model, by its names."""
    return {
        "num_hidden_layers": LAYERS,
        "embedding_dim": CHANNELS,
        "ffn_embedding_dim": CHANNELS,
        "num_attention_heads": HEADS,
        "gaussian_hidden_dim": GAUSSIANS,
        "input_dim": CHANNELS,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
    }


def stepper(
    name: str, mode: str, cells: int, macro: int, reference: Path | None
) -> tuple[Callable[[], None], nn.Module, int]:
    """The work to time, the model, and how many pairs it looks at.

    Args:
        name: ``library``, ``weights`` (both ours) or ``published``.
        mode: ``forward`` or ``training``.
        cells: Of the sub-slice.
        macro: Virtual cells.
        reference: Checkout of PharMolix/SToFM; for ``published`` alone.
    """
    torch.manual_seed(0)
    part = Slice(cells, macro)
    if name == "published":
        model = published_model(reference, **config())
        matrix = part.matrix()
        given = (part.x[None], matrix[None], part.kind[None])
        pairs = matrix.numel()

        def run() -> list[Tensor]:
            result = model(*given)
            return [result["last_hidden_state"], result["pair_rep"]]
    elif name == "weights":
        model = OfficialNetwork(Config(**config()))
        edge_index, distance = part.told()
        data = Data(x=part.x, node_type=part.kind, edge_index=edge_index, edge_attr=distance)
        pairs = len(part.x) ** 2
        asked = (torch.rand(len(part.x)) < ASKED / 2)[data.edge_index].any(0)
        asked = data.edge_index[:, asked] if mode == "training" else None

        def run() -> list[Tensor]:
            result = model(data, asked)
            return list(result) if mode == "training" else [result]
    else:
        model, edge_index = Ours(), part.library()
        pos = part.pos.masked_fill((part.kind == CLS)[:, None], torch.nan)  # CLS has no place
        pairs = edge_index.size(1)

        def run() -> list[Tensor]:
            return model(part.x, part.kind, edge_index, pos)

    def forward() -> None:
        with torch.no_grad():
            run()

    def training() -> None:
        model.zero_grad()
        sum(result.sum() for result in run()).backward()

    model.train(mode == "training")
    return {"forward": forward, "training": training}[mode], model, pairs
