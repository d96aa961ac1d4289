"""Self-supervision: guess hidden cells from their surroundings, and how far moved cells were."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo.models.network import Network
from stofm_geo.models.objectives import Loss, Objectives
from stofm_geo.models.settings import Settings


class Pretraining(L.LightningModule):
    """Both objectives (:mod:`stofm_geo.models.objectives`) as one training step.

    Errors are means over the numbers that are asked for in the whole batch, on whatever ranks:
    two ranks give the gradients that one gives with both their batches.

    Args:
        network: Trained in place.
        settings: Weights and rates.
    """

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.objectives = Objectives.of(settings)
        self.losses: list[list[float]] = []  # a step: both losses, each before its baseline

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        z, pair = self.network(batch)
        niches = self._mean(self.objectives.niche_loss(self.network, batch, z))
        distances = self._mean(self.objectives.distance_loss(self.network, batch, pair))
        self.log_dict(
            {"niche_loss": niches[0], "distance_loss": distances[0]}, prog_bar=True, batch_size=1
        )
        self.losses.append([value.item() for value in (*niches, *distances)])
        return niches[0] + self.settings.distance_weight * distances[0]

    def _mean(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Error and plain error; over ranks, gradients are averaged after this."""
        count = self.trainer.strategy.reduce(loss.count.clone(), reduce_op="mean").clamp_min(1)
        return loss.error / count, loss.plain / count

    def configure_optimizers(self) -> dict:
        """See ``LightningModule``."""
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=rate, weight_decay=self.settings.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=0.1
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
