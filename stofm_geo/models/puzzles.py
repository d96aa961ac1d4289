"""What a network is asked in training: cells hidden and moved, and nothing given away."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.data.pieces import collate
from stofm_geo.genes.panel_encoder import compressed
from stofm_geo.models.network import cell_edges
from stofm_geo.models.settings import Settings
from stofm_geo.nn import niche
from stofm_geo.transforms import MaskCells, PerturbPositions, SpatialKNN


class Puzzle:
    """Makes a puzzle of a piece (:func:`~stofm_geo.data.pieces.pieces`), another one each time.

    Sets ``niche``, what core cells are asked for, from the piece as it is. Then some cells are
    moved, the graph is that of the moved positions (the true one would tell), and some cells are
    hidden, with their counts.

    Args:
        settings: Shares, and how far cells are moved.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.transform = Compose(
            [
                PerturbPositions(settings.move_share, settings.move_sigma),
                SpatialKNN(settings.k),
                MaskCells(settings.mask_share),
            ]
        )

    def __call__(self, piece: Data) -> Data:
        """A new puzzle; ``piece`` stays as it is. Drawn with torch's generator."""
        piece = copy.copy(piece)
        # Two edges of halo, so that the niches of a piece's border cells are those of the slice.
        piece.niche = niche(piece.x, cell_edges(piece))
        piece = self.transform(piece)
        return hide_counts(piece, self.settings.drop_share) if "gene" in piece else piece


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
    # Like the cells' already, or stacking would go over all of them.
    means = means.astype(np.float32).sorted_indices()
    row = np.repeat(np.arange(n), data.num_genes[:n].numpy())
    stays = ~hidden[row] & (torch.rand(len(row)).numpy() >= drop_share)
    entries = slice(ptr[n])
    seen = sp.csr_matrix(
        (
            values.data[entries][stays] / (1 - drop_share),
            values.indices[entries][stays],
            np.r_[0, np.cumsum(np.bincount(row[stays], minlength=n))],
        ),
        shape=(n, width),
    )
    rows = sp.vstack([seen, means], format="csr")
    data.gene, data.value, data.num_genes = compressed(rows)
    return data


class _Puzzles(Dataset):
    def __init__(self, pieces: Sequence[Data], settings: Settings) -> None:
        self.pieces = pieces
        self.puzzle = Puzzle(settings)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Data:
        return self.puzzle(self.pieces[index])


def puzzles(pieces: Sequence[Data], settings: Settings, steps: int) -> DataLoader:
    """A loader of ``steps`` puzzles of pieces drawn at random, one a step."""
    dataset = _Puzzles(pieces, settings)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps)
    return DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=collate)
