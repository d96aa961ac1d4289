"""The network of the objective ``molecules``: it predicts molecules that it has not seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork, cell_edges
from stofm_geo.nn import niche_features


class MoleculeNetwork(SToFMNetwork):
    r"""Network that denoises the features of a cell from those of the cell and its neighbours.

    .. math::
        \hat x_i = W n_i + b + C\, P\, h_i

    with :math:`n_i` the niche of the cell (:func:`stofm_geo.nn.niche_features`: its features and
    their means over one and two hops) and :math:`h_i` the output of the Transformer over all
    niches. :math:`W` and :math:`b` are fitted before training, as the best linear predictor, and
    :math:`P` is zero then, so that training starts from the best that averages can do.

    An embedding has three parts: the niche ``[3 F]``, the denoised features :math:`\hat x_i`
    ``[F]``, and :math:`P h_i`, the context, ``[out_channels - 4 F]``: what the Transformer has
    found that averages lack.

    Args:
        in_channels: Size ``F`` of the features.
        config: Configuration.
        num_genes: Number of genes that features are components of.

    Raises:
        ValueError: An embedding is too small to hold these parts.
    """

    target_mean: Tensor
    target_axes: Tensor
    target_scale: Tensor

    def __init__(self, in_channels: int, config: SToFMConfig, num_genes: int) -> None:
        context = config.out_channels - 4 * in_channels
        if context < 1:
            raise ValueError(
                f"an embedding holds 4 times the {in_channels} features and more: set out_channels "
                f"above {4 * in_channels} (it is {config.out_channels}), or n_components lower"
            )
        super().__init__(in_channels, config, inputs=3 * in_channels)
        niche, denoised = 3 * in_channels, 4 * in_channels
        self.columns = {
            "niche": (0, niche),
            "denoised": (niche, denoised),
            "context": (denoised, config.out_channels),
        }
        self.register_buffer("target_mean", torch.zeros(num_genes))
        self.register_buffer("target_axes", torch.zeros(num_genes, in_channels))
        self.register_buffer("target_scale", torch.ones(in_channels))
        self.linear = nn.Linear(3 * in_channels, in_channels)
        self.project = nn.Linear(config.hidden_channels, context)
        self.correct = nn.Linear(context, in_channels, bias=False)
        for weight in (*self.linear.parameters(), *self.project.parameters()):
            nn.init.zeros_(weight)

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """See :class:`SToFMNetwork`."""
        niche = self.inputs(data)
        x, _, pair = self.transformer(*self.nodes(niche, data))
        context = self.project(x)
        denoised = self.linear(niche) + self.correct(context)
        return torch.cat([niche, denoised, context], dim=1), pair

    def inputs(self, data: Data) -> Tensor:
        """Return the niches that the visible cells give, ``[num_nodes, 3 F]``."""
        visible = ~data.mask if "mask" in data else None
        return niche_features(self.features(data), cell_edges(data), visible)

    @property
    def targets(self) -> FractionComponents:
        """Components that the denoised features are, of the encoder's genes."""
        mean, axes, scale = self.target_mean, self.target_axes, self.target_scale
        return FractionComponents(*(part.cpu().numpy() for part in (mean, axes, scale)))

    @targets.setter
    def targets(self, targets: FractionComponents) -> None:
        self.target_mean.copy_(torch.from_numpy(targets.mean))
        self.target_axes.copy_(torch.from_numpy(targets.axes))
        self.target_scale.copy_(torch.from_numpy(targets.scale))

    @property
    def widths(self) -> Tensor:
        """Weights of the denoised features in the loss, ``[F]``, which undo their whitening."""
        return self.target_scale / self.target_scale.square().mean().sqrt()

    def denoised(self, z: Tensor) -> Tensor:
        """Return the denoised features of embeddings, ``[num_nodes, F]``."""
        return z[:, slice(*self.columns["denoised"])]
