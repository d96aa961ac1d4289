"""Pre-training objectives: a masking of sub-slices and two losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.training.objectives._loss import Loss
from stofm_geo.training.objectives.niches import NicheMasking, distance_loss, niche_loss
from stofm_geo.training.objectives.published import OfficialMasking, cell_loss, pair_loss


class PretrainingObjective(NamedTuple):
    """A masking of sub-slices and two losses.

    Attributes:
        masking: Function that masks a sub-slice (:class:`~stofm_geo.data.SubSliceDataset`).
        niche_loss: Function of network, masked sub-slice and embeddings.
        distance_loss: Function of network, masked sub-slice and pair states.
    """

    masking: Callable[[Data], Data]
    niche_loss: Callable[[SToFMNetwork, Data, Tensor], Loss]
    distance_loss: Callable[[SToFMNetwork, Data, Tensor], Loss]

    @classmethod
    def from_config(cls, config: SToFMConfig) -> PretrainingObjective:
        """Return the objective of a configuration."""
        if config.objectives == "official":
            return cls(OfficialMasking(config), cell_loss, pair_loss)
        return cls(NicheMasking(config), niche_loss, distance_loss)
