"""The network: features and positions of a sub-slice in, node embeddings and pair states out."""

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

_RIDGE = 1e-2  # of the mean square of a component's embedding


class SToFMNetwork(nn.Module):
    """The SE(2) Transformer over cells, virtual cells and CLS, as a correction to averages.

    An embedding is an estimate of a cell's *niche* (:func:`stofm_geo.nn.niche_features`: its
    features and their means over one and two steps on the graph) in a fixed basis: the
    averages over what is visible, plus what the transformer adds. It starts at the averages, which
    are a strong description of tissue, and training can only improve on them.

    With a panel encoder, features are what it makes of a slice's components, which are read off an
    estimated feature again.

    Args:
        in_channels: Size of the features ``F``.
        config: Widths and depths.
        encoder: Makes the features; ``None``: they are ``data.x``.
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
        self.embed_type = nn.Embedding(3, width)  # one a NodeType
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
            # Orthonormal, so that distances between niches are kept (nearly, if out_channels is
            # below 3 F), and scaled, so that the numbers are of size 1.
            nn.init.orthogonal_(basis)
            basis *= max(config.out_channels / (3 * in_channels), 1.0) ** 0.5
        self.register_buffer("basis", basis)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """Embed.

        Args:
            data: A sub-slice or a batch of them, with ``x``, ``pos``, ``edge_index``,
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
        of = data.batch if "batch" in data else torch.zeros_like(data.node_type)
        h = _times(data.x, data, self.encoder.component_embeddings)
        return self.encoder.refine(h, data.technology[of])

    def decode_niche(self, z: Tensor, data: Data) -> Tensor:
        """Decode embeddings into the space in which the niche loss is computed.

        See :meth:`niche_target`.
        """
        if self.encoder is None:
            return z
        parts = z[:, : 3 * self.in_channels].view(len(z), 3, -1)
        return _times(parts, data, self.component_decoder).flatten(1)

    def predict_features(self, z: Tensor, data: Data) -> Tensor:
        """Predict the features ``data.x`` from embeddings, ``[num_nodes, F]``."""
        found = self.cell_head(z)
        return found if self.encoder is None else _times(found, data, self.component_decoder)

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
    parts = rows.split(data.ptr.diff().tolist())
    slices = zip(parts, data.panel, data.loadings, strict=True)
    return torch.cat([part @ matrix(*of) for part, *of in slices])


def cell_edges(data: Data) -> Tensor:
    """Return the edges between cells, ``[2, E]``."""
    cells = data.node_type == NodeType.CELL
    return data.edge_index[:, cells[data.edge_index].all(dim=0)]
