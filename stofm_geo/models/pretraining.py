"""Self-supervision: guess hidden cells from their surroundings, and how far moved cells were."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.models.network import Network, cell_edges
from stofm_geo.models.settings import Settings
from stofm_geo.nn import niche
from stofm_geo.transforms import MaskCells, PerturbPositions, SpatialKNN


class Pretraining(L.LightningModule):
    """Both objectives of SToFM as one training step.

    Masked cells: the mean squared error of the niche of every core cell, of which some are hidden,
    from a graph in which some have moved. Distance recovery: the mean squared error of
    ``log(1 + distance)`` between the ends of an edge of which one was moved, the graph being that
    of the positions after the move.

    Args:
        network: Trained in place.
        settings: Weights and rates.
    """

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.losses: list[list[float]] = []  # a step: both losses, each before its baseline

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        z, pair = self.network(batch)
        niche_loss, niche_base = masked_niche_loss(self.network, batch, z)
        distance_loss, distance_base = recovery_loss(self.network, batch, pair)
        self.log_dict(
            {"niche_loss": niche_loss, "distance_loss": distance_loss}, prog_bar=True, batch_size=1
        )
        step = (niche_loss, niche_base, distance_loss, distance_base)
        self.losses.append([value.item() for value in step])
        return niche_loss + self.settings.distance_weight * distance_loss

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


def masked_niche_loss(network: Network, data: Data, z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the core cells' niches, and that of the averages alone."""
    core = data.core_mask
    true = data.niche[core] @ network.basis
    with torch.no_grad():
        base = F.mse_loss(network.averages(data)[core], true)
    return F.mse_loss(z[core], true), base


def recovery_loss(network: Network, data: Data, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of moved cells' log distances, and that of believing what is seen."""
    src, dst = data.edge_index
    cells = data.node_type == NodeType.CELL
    asked = (data.moved[src] | data.moved[dst]) & cells[src] & cells[dst]
    if not asked.any():
        return pair.sum() * 0, pair.new_zeros(())
    src, dst = src[asked], dst[asked]
    true = (data.pos_target[src] - data.pos_target[dst]).norm(dim=1).float().log1p()
    seen = (data.pos[src] - data.pos[dst]).norm(dim=1).float().log1p()
    return F.mse_loss(network.distance_head(pair[asked]), true), F.mse_loss(seen, true)


class _Puzzles(Dataset):
    """Sub-slices, at each visit hidden and moved anew."""

    def __init__(self, pieces: Sequence[Data], settings: Settings) -> None:
        self.pieces = pieces
        self.transform = Compose(
            [
                PerturbPositions(settings.move_share, settings.move_sigma),
                SpatialKNN(settings.k),  # of the moved positions: the true graph would tell
                MaskCells(settings.mask_share),
            ]
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Data:
        piece = copy.copy(self.pieces[index])
        # Two edges of halo, so that the niches of a piece's border cells are those of the slice.
        piece.niche = niche(piece.x, cell_edges(piece))
        return self.transform(piece)


def puzzles(pieces: Sequence[Data], settings: Settings, steps: int) -> DataLoader:
    """A loader of ``steps`` sub-slices drawn at random, one a step."""
    dataset = _Puzzles(pieces, settings)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps)
    return DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=Batch.from_data_list)
