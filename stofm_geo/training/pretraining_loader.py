"""Masked sub-slices of a few slices in memory, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch_geometric.data import Data

from stofm_geo.data.subslices import collate_subslices
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.training.objectives import PretrainingObjective


class _MaskedSubSlices(Dataset):
    def __init__(self, pieces: Sequence[Data], config: SToFMConfig) -> None:
        self.pieces = pieces
        self.puzzle = PretrainingObjective.from_config(config).puzzle

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Data:
        return self.puzzle(self.pieces[index])


def pretraining_loader(pieces: Sequence[Data], config: SToFMConfig, steps: int) -> DataLoader:
    """Return a loader of ``steps`` masked sub-slices, drawn at random, one per step."""
    dataset = _MaskedSubSlices(pieces, config)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps)
    return DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=collate_subslices)
