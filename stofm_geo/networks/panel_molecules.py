"""The network of the objective ``molecules`` for slices of any panel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.molecules import DENOISED_SCALE, embedding_columns, niches_of
from stofm_geo.networks.stofm import SToFMNetwork, times

_LOADINGS = "fraction_loadings"


class PanelMoleculeNetwork(SToFMNetwork):
    r"""Network that predicts the expected expression of a cell, in the components of its slice.

    .. math::
        \hat y_i = y_i + D\, C\, P\, h_i

    with :math:`y_i` the expected components of fractions that the counts of the cell alone give
    (:meth:`stofm_geo.genes.fractions.FractionComponents.expected`), :math:`h_i` the output of the
    Transformer, and :math:`D` the map from gene embeddings to the components of the slice
    (:meth:`SToFMNetwork.component_decoder`). The Transformer reads the niches of the features and
    of :math:`E^\top y_i`, with :math:`E` the embeddings of the components. :math:`P` is zero before
    training, so that training starts from :math:`y_i`.

    An embedding has three parts, as that of :class:`~stofm_geo.networks.MoleculeNetwork`: the niche
    of the features ``[3 F]``, a third of the denoised features :math:`E^\top y_i + C P h_i`
    ``[F]``, and the context :math:`P h_i`, ``[out_channels - 4 F]``.

    Args:
        config: Configuration.
        encoder: Encoder trained with the network.
    """

    def __init__(self, config: SToFMConfig, encoder: PanelEncoder) -> None:
        channels = encoder.out_channels
        columns = embedding_columns(channels, config.out_channels)
        context = config.out_channels - 4 * channels
        super().__init__(channels, config, encoder, inputs=6 * channels)
        self.columns = columns
        self.project = nn.Linear(config.hidden_channels, context)
        self.correct = nn.Linear(context, channels, bias=False)
        for weight in self.project.parameters():
            nn.init.zeros_(weight)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """See :class:`SToFMNetwork`."""
        inputs = self.inputs(data)
        niche, expected = inputs.tensor_split(2, dim=1)
        x, _, pair = self.transformer(*self.nodes(inputs, data))
        context = self.project(x)
        denoised = expected[:, : self.in_channels] + self.correct(context)
        return torch.cat([niche, DENOISED_SCALE * denoised, context], dim=1), pair

    def inputs(self, data: Data) -> Tensor:
        """Return the niches of the visible cells' features and fractions, ``[num_nodes, 6 F]``."""
        assert self.encoder is not None
        fractions = times(data.fractions, data, self.encoder.component_embeddings, _LOADINGS)
        return niches_of(data, self.features(data), fractions)

    def predicted(self, z: Tensor, data: Data) -> Tensor:
        """Return the components of fractions that are predicted, ``[num_nodes, components]``."""
        context = z[:, slice(*self.columns["context"])]
        change = times(self.correct(context), data, self.component_decoder, _LOADINGS)
        return data.fractions + change

    def loss_weights(self, data: Data) -> Tensor:
        """Return the weights of the components in the loss, ``[num_nodes, components]``."""
        slice_index = data.batch if "batch" in data else torch.zeros_like(data.node_type)
        return data.widths[slice_index]
