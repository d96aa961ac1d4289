"""Self-supervision: guess hidden cells from their surroundings, and how far moved cells were."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import lightning as L
import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.genes.panel_encoder import compressed
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
    true = network.asked(data.niche[core])
    with torch.no_grad():
        averages = network.asked(niche(data.x, cell_edges(data), ~data.mask)[core])
    return F.mse_loss(network.estimates(z, data)[core], true), F.mse_loss(averages, true)


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
        self.drop_share = settings.drop_share
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
        piece = self.transform(piece)
        return hide_counts(piece, self.drop_share) if "gene" in piece else piece


def hide_counts(data: Data, drop_share: float) -> Data:
    """Take the counts of hidden cells out of a piece, and a share of the values of the others.

    The means that virtual cells and CLS have are those of what is left, so that nothing tells of
    a hidden cell. Values that stay are scaled up by what is lost: their sum is the same on average.

    Args:
        data: A piece of :func:`~stofm_geo.data.pieces.pieces`, ``mask`` told.
        drop_share: Of each visible cell's values.
    """
    ptr = np.r_[0, data.num_genes.cumsum(0).numpy()]
    width = int(data.gene.max()) + 1 if len(data.gene) else 1
    values = sp.csr_matrix(
        (data.value.numpy(), data.gene.numpy(), ptr), shape=(data.num_nodes, width)
    )
    n = int((data.node_type == NodeType.CELL).sum())  # cells come first
    hidden = data.mask[:n].numpy()
    size = data.cluster_size[n:].numpy().astype(np.float32)
    cls = (data.node_type[n:] == NodeType.CLS).numpy()
    size[cls] = size.sum()  # a piece has the virtual cells of one slice
    of = data.cluster[:n].numpy()[hidden] - n
    inside = (of[None, :] == np.arange(len(size))[:, None]) | cls[:, None]
    left = np.maximum(size - inside.sum(axis=1), 1)
    lost = sp.csr_matrix(inside.astype(np.float32)) @ values[:n][hidden]
    means = sp.diags(1 / left) @ (sp.diags(size) @ values[n:] - lost)
    stays = np.repeat(~hidden, data.num_genes[:n].numpy())
    stays &= torch.rand(len(stays)).numpy() >= drop_share
    row = np.repeat(np.arange(n), data.num_genes[:n].numpy())[stays]
    entries = slice(ptr[n])
    seen = sp.csr_matrix(
        (
            values.data[entries][stays] / (1 - drop_share),
            values.indices[entries][stays],
            np.r_[0, np.cumsum(np.bincount(row, minlength=n))],
        ),
        shape=(n, width),
    )
    rows = sp.vstack([seen, means], format="csr", dtype=np.float32)
    data.gene, data.value, data.num_genes = compressed(rows)
    return data


def puzzles(pieces: Sequence[Data], settings: Settings, steps: int) -> DataLoader:
    """A loader of ``steps`` sub-slices drawn at random, one a step."""
    dataset = _Puzzles(pieces, settings)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps)
    return DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=Batch.from_data_list)
