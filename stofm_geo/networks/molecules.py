"""The network of the objective ``molecules``: it predicts molecules that it has not seen."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork, cell_edges
from stofm_geo.nn import niche_features

Values = TypeVar("Values", np.ndarray, Tensor)
# Of the denoised components in an embedding. Beside the niche, which holds the cell's own features,
# a cell would weigh twice, and clusters would be cell types instead of tissue domains.
DENOISED_SCALE = 1 / 3


class MoleculeNetwork(SToFMNetwork):
    r"""Network that predicts the expected expression of a cell from the cell and its neighbours.

    .. math::
        \hat y_i = W m_i + b + C\, P\, h_i

    with :math:`m_i` the niche (:func:`stofm_geo.nn.niche_features`: the cell's own, and means over
    one and two hops) of the expected fractions that the counts of a cell alone give
    (:meth:`stofm_geo.genes.fractions.FractionComponents.expected`), and :math:`h_i` the output of
    the Transformer over the niches of fractions and features. :math:`W` and :math:`b` are fitted
    before training, as the best linear predictor, and :math:`P` is zero then, so that training
    starts from the best that averages can do.

    An embedding has three parts: the niche of the features ``[3 F]``, a third of the denoised
    components :math:`\hat y_i` ``[F]``, and :math:`P h_i`, the context, ``[out_channels - 4 F]``:
    what the Transformer has found that averages lack.

    Args:
        in_channels: Size ``F`` of the features, and number of components of fractions.
        config: Configuration.
        widths: Weights of the components of fractions in the loss, ``[F]``, which undo their
            whitening.

    Raises:
        ValueError: An embedding is too small to hold these parts.
    """

    widths: Tensor

    def __init__(self, in_channels: int, config: SToFMConfig, widths: Tensor) -> None:
        columns = embedding_columns(in_channels, config.out_channels)
        context = config.out_channels - 4 * in_channels
        super().__init__(in_channels, config, inputs=6 * in_channels)
        self.columns = columns
        self.register_buffer("widths", widths)
        self.linear = nn.Linear(3 * in_channels, in_channels)
        self.project = nn.Linear(config.hidden_channels, context)
        self.correct = nn.Linear(context, in_channels, bias=False)
        for weight in (*self.linear.parameters(), *self.project.parameters()):
            nn.init.zeros_(weight)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """See :class:`SToFMNetwork`."""
        inputs = self.inputs(data)
        niche, expected = inputs.tensor_split(2, dim=1)
        x, _, pair = self.transformer(*self.nodes(inputs, data))
        context = self.project(x)
        denoised = self.linear(expected) + self.correct(context)
        return torch.cat([niche, DENOISED_SCALE * denoised, context], dim=1), pair

    def inputs(self, data: Data) -> Tensor:
        """Return the niches of the visible cells' features and fractions, ``[num_nodes, 6 F]``."""
        return niches_of(data, self.features(data), data.fractions)

    def predicted(self, z: Tensor, data: Data) -> Tensor:
        """Return the components of fractions that embeddings predict, ``[num_nodes, F]``."""
        return self.components(z)

    def components(self, z: Values) -> Values:
        """Return the components of fractions in embeddings ``[n, out_channels]``, ``[n, F]``."""
        return z[:, slice(*self.columns["denoised"])] / DENOISED_SCALE

    def loss_weights(self, data: Data) -> Tensor:
        """Return the weights of the components in the loss, ``[num_nodes, F]``."""
        return self.widths.expand(len(data.node_type), -1)


def embedding_columns(features: int, out_channels: int) -> dict[str, tuple[int, int]]:
    """Return the columns of niche, denoised features and context in an embedding.

    Args:
        features: Size ``F`` of the features.
        out_channels: Size of an embedding.

    Raises:
        ValueError: An embedding is too small to hold these parts.
    """
    if out_channels <= 4 * features:
        raise ValueError(
            f"an embedding holds 4 times the {features} features and more: set out_channels "
            f"above {4 * features} (it is {out_channels}), or n_components lower"
        )
    niche, denoised = 3 * features, 4 * features
    return {
        "niche": (0, niche),
        "denoised": (niche, denoised),
        "context": (denoised, out_channels),
    }


def niches_of(data: Data, *values: Tensor) -> Tensor:
    """Return the niches of several values of the visible cells side by side, ``[num_nodes, ...]``.

    Args:
        data: Sub-slice, or a batch of them.
        values: Values of the nodes, ``[num_nodes, F]`` each.
    """
    visible = ~data.mask if "mask" in data else None
    edges = cell_edges(data)
    return torch.cat([niche_features(each, edges, visible) for each in values], dim=1)
