"""Pre-training objectives: a masking of sub-slices and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.training.objectives._loss import Loss
from stofm_geo.training.objectives.molecules import MoleculeMasking, molecule_loss
from stofm_geo.training.objectives.niches import NicheMasking, distance_loss, niche_loss
from stofm_geo.training.objectives.published import OfficialMasking, cell_loss, pair_loss


class PretrainingObjective(NamedTuple):
    """A masking of sub-slices and losses.

    Attributes:
        masking: Function that masks a sub-slice (:class:`~stofm_geo.data.SubSliceDataset`, or
            :class:`~stofm_geo.data.molecules.MoleculeSlice` for molecules).
        held_out: The same in validation.
        losses: Functions of network, masked sub-slice, embeddings and pair states, by name. The
            first decides which weights are the best.
        weights: Weight of each loss in training, where it is not 1.
    """

    masking: Callable[[Data], Data]
    held_out: Callable[[Data], Data]
    losses: dict[str, Callable[[SToFMNetwork, Data, Tensor, Tensor], Loss]]
    weights: dict[str, float]

    @classmethod
    def from_config(cls, config: SToFMConfig) -> PretrainingObjective:
        """Return the objective of a configuration."""
        if config.objectives == "molecules":
            splits, name = MoleculeMasking(config), "molecule_loss"
            return cls(splits, splits.held_out, {name: _of_embedding(molecule_loss)}, {})
        official = config.objectives == "official"
        masking = OfficialMasking(config) if official else NicheMasking(config)
        losses = {
            "niche_loss": _of_embedding(cell_loss if official else niche_loss),
            "distance_loss": _of_pair(pair_loss if official else distance_loss),
        }
        return cls(masking, masking, losses, {"distance_loss": config.distance_weight})


def _of_embedding(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    return lambda network, data, z, pair: loss(network, data, z)


def _of_pair(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    return lambda network, data, z, pair: loss(network, data, pair)
