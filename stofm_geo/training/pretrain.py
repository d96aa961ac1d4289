"""Self-supervised training by an objective of :mod:`stofm_geo.training.objectives`."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.training.objectives import Loss, PretrainingObjective
from stofm_geo.training.trainer import adamw_one_cycle


class Pretraining(L.LightningModule):
    """The losses of an objective (:mod:`stofm_geo.training.objectives`) as one training step.

    Errors are means over the numbers that are asked for in the whole batch, on whatever ranks:
    two ranks give the gradients that one gives with both their batches.

    Args:
        network: Trained in place.
        config: Weights and rates.
    """

    def __init__(self, network: SToFMNetwork, config: SToFMConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.objectives = PretrainingObjective.from_config(config)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        losses = {name: self._mean(loss) for name, loss in self.losses(batch).items()}
        self.log_dict(losses, prog_bar=True, batch_size=1)
        weights = self.objectives.weights
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def losses(self, batch: Data) -> dict[str, Loss]:
        """Return each loss of a batch, by name."""
        z, pair = self.network(batch)
        losses = self.objectives.losses.items()
        return {name: loss(self.network, batch, z, pair) for name, loss in losses}

    def _mean(self, loss: Loss) -> Tensor:
        """Return the mean error; gradients are averaged over ranks later."""
        count = self.trainer.strategy.reduce(loss.count.clone(), reduce_op="mean").clamp_min(1)
        return loss.error / count

    def configure_optimizers(self) -> Any:
        """See ``LightningModule``."""
        return adamw_one_cycle(self, self.config.learning_rate, self.config.weight_decay)
