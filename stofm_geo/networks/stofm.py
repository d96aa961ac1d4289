"""The network: from features and positions of a sub-slice to embeddings and pair states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.nn import CellHead, DistanceHead, GaussianRadial, SE2Transformer, niche_features

_RIDGE = 1e-2  # relative to the mean square of the component embeddings


class SToFMNetwork(nn.Module):
    """SE(2) Transformer over cells, macro nodes and CLS that corrects neighbour averages.

    The embedding estimates the *niche* of a cell (:func:`stofm_geo.nn.niche_features`: its features
    and their means over one and two hops) in a fixed basis. It is the niche computed from visible
    cells plus the output of the Transformer, which is zero at the start of training, since
    averages describe tissue well.

    With a panel encoder, ``data.x`` are components of the slice; the encoder maps them to features,
    and :meth:`component_decoder` maps features back to components.

    Args:
        in_channels: Size ``F`` of the features.
        config: Configuration.
        encoder: Encoder trained with the network; ``None``: features are ``data.x``.
    """

    basis: Tensor

    def __init__(
        self, in_channels: int, config: SToFMConfig, encoder: PanelEncoder | None = None
    ) -> None:
        super().__init__()
        width = config.hidden_channels
        self.in_channels = in_channels
        self.encoder = encoder
        self.embed_features = nn.Linear(in_channels, width)
        self.embed_type = nn.Embedding(3, width)  # one per NodeType
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.transformer = SE2Transformer(
            width,
            config.num_layers,
            config.heads,
            radial=partial(GaussianRadial, num_gaussians=config.num_gaussians),
            dropout=config.dropout,
        )
        self.project = nn.Linear(width, config.out_channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.distance_head = DistanceHead(config.heads)
        if config.objectives == "official":
            self.cell_head = CellHead(config.out_channels, in_channels)
        else:
            # Close to the mean of log(1 + distance) to neighbours, in cell spacings, where a random
            # head errs by far more than the niches and holds their training up.
            last: Any = self.distance_head[-1]
            nn.init.zeros_(last.weight)
            nn.init.ones_(last.bias)
        basis = torch.empty(3 * in_channels, config.out_channels)
        if encoder is not None:
            nn.init.eye_(basis)
        else:
            # Orthonormal, to preserve distances between niches (nearly, if out_channels < 3 F), and
            # scaled to values of size 1.
            nn.init.orthogonal_(basis)
            basis *= max(config.out_channels / (3 * in_channels), 1.0) ** 0.5
        self.register_buffer("basis", basis)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return embeddings and pair states.

        Args:
            data: A sub-slice or a batch of sub-slices, with ``x``, ``pos``, ``edge_index``,
                ``node_type`` and, in training, ``mask``.

        Returns:
            Embeddings ``[num_nodes, out_channels]`` and the last layer's pair state
            ``[num_edges, heads]``.
        """
        features = self.features(data)
        x, _, pair = self.transformer(*self._nodes(features, data))
        visible = ~data.mask if "mask" in data else None
        averages = niche_features(features, cell_edges(data), visible) @ self.basis
        return averages + self.project(x), pair

    def attention(self, data: Data) -> Tensor:
        """Return the attention weights of each edge: ``[num_layers, num_edges, heads]``."""
        return self.transformer.attention(*self._nodes(self.features(data), data))

    def _nodes(self, features: Tensor, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Return the transformer's inputs: features ``[num_nodes, width]``, edges, positions."""
        x = self.embed_features(features)
        if "mask" in data:
            x = torch.where(data.mask[:, None], self.mask_token, x)
        x = x + self.embed_type(data.node_type)
        placeless = (data.node_type == NodeType.CLS)[:, None]
        return x, data.edge_index, data.pos.masked_fill(placeless, torch.nan)

    def features(self, data: Data) -> Tensor:
        """Return the features of the nodes, ``[num_nodes, F]``."""
        if self.encoder is None:
            return data.x
        slice_index = data.batch if "batch" in data else torch.zeros_like(data.node_type)
        h = _times(data.x, data, self.encoder.component_embeddings)
        return self.encoder.refine(h, data.technology[slice_index])

    def decode_niche(self, z: Tensor, data: Data) -> Tensor:
        """Decode embeddings into the space in which the niche loss is computed.

        See :meth:`niche_target`.
        """
        if self.encoder is None:
            return z
        niche_parts = z[:, : 3 * self.in_channels].view(len(z), 3, -1)
        return _times(niche_parts, data, self.component_decoder).flatten(1)

    def predict_features(self, z: Tensor, data: Data) -> Tensor:
        """Predict the features ``data.x`` from embeddings, ``[num_nodes, F]``."""
        predicted = self.cell_head(z)
        return (
            predicted if self.encoder is None else _times(predicted, data, self.component_decoder)
        )

    def component_decoder(self, panel: Tensor, loadings: Tensor) -> Tensor:
        """Return the matrix from features to the components of a slice, ``[F, components]``.

        It is the pseudo-inverse of the embeddings of the components, so that it inverts the
        encoder, also on new slices. A ridge limits the gain along directions in which the
        embeddings hardly differ.
        """
        assert self.encoder is not None
        axes = self.encoder.component_embeddings(panel, loadings)
        gram = axes @ axes.t()
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        return torch.linalg.solve(gram + ridge, axes).t()

    def niche_target(self, niches: Tensor) -> Tensor:
        """Map niche features of ``data.x`` into the space of :meth:`decode_niche`."""
        return niches @ self.basis if self.encoder is None else niches


def _times(rows: Tensor, data: Data, matrix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Multiply the rows of nodes ``[num_nodes, ..., a]`` by their slice's ``matrix`` ``[a, b]``."""
    if "ptr" not in data:
        return rows @ matrix(data.panel, data.loadings)
    by_slice = rows.split(data.ptr.diff().tolist())
    slices = zip(by_slice, data.panel, data.loadings, strict=True)
    return torch.cat([slice_rows @ matrix(*components) for slice_rows, *components in slices])


def cell_edges(data: Data) -> Tensor:
    """Return the edges between cells, ``[2, E]``."""
    cells = data.node_type == NodeType.CELL
    return data.edge_index[:, cells[data.edge_index].all(dim=0)]
