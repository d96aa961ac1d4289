"""The network that corrects neighbour averages: of the objectives ``niches`` and ``official``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork, cell_edges, times
from stofm_geo.nn import CellHead, DistanceHead, niche_features


class NicheNetwork(SToFMNetwork):
    """Network whose embedding is a cell's niche, corrected by the Transformer.

    The embedding estimates the *niche* of a cell (:func:`stofm_geo.nn.niche_features`: its features
    and their means over one and two hops) in a fixed basis. It is the niche computed from visible
    cells plus the output of the Transformer, which is zero at the start of training, since
    averages describe tissue well.

    Args:
        in_channels: Size ``F`` of the features.
        config: Configuration.
        encoder: Encoder trained with the network; ``None``: features are ``data.x``.
    """

    basis: Tensor

    def __init__(
        self, in_channels: int, config: SToFMConfig, encoder: PanelEncoder | None = None
    ) -> None:
        super().__init__(in_channels, config, encoder)
        self.columns = {"niche": (0, config.out_channels)}
        self.project = nn.Linear(config.hidden_channels, config.out_channels)
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
        """See :class:`SToFMNetwork`."""
        features = self.features(data)
        x, _, pair = self.transformer(*self.nodes(features, data))
        visible = ~data.mask if "mask" in data else None
        averages = niche_features(features, cell_edges(data), visible) @ self.basis
        return averages + self.project(x), pair

    def decode_niche(self, z: Tensor, data: Data) -> Tensor:
        """Decode embeddings into the space in which the niche loss is computed.

        See :meth:`niche_target`.
        """
        if self.encoder is None:
            return z
        niche_parts = z[:, : 3 * self.in_channels].view(len(z), 3, -1)
        return times(niche_parts, data, self.component_decoder).flatten(1)

    def predict_features(self, z: Tensor, data: Data) -> Tensor:
        """Predict the features ``data.x`` from embeddings, ``[num_nodes, F]``."""
        predicted = self.cell_head(z)
        return predicted if self.encoder is None else times(predicted, data, self.component_decoder)

    def niche_target(self, niches: Tensor) -> Tensor:
        """Map niche features of ``data.x`` into the space of :meth:`decode_niche`."""
        return niches @ self.basis if self.encoder is None else niches
