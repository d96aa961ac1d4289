"""Masked sub-slices of a few slices in memory, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch_geometric.data import Data

from stofm_geo.data.subslices import collate_subslices
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.training.objectives import PretrainingObjective


class _MaskedSubSlices(Dataset):
    def __init__(self, subslices: Sequence[Data], config: SToFMConfig) -> None:
        self.subslices = subslices
        self.masking = PretrainingObjective.from_config(config).masking

    def __len__(self) -> int:
        return len(self.subslices)

    def __getitem__(self, index: int) -> Data:
        return self.masking(self.subslices[index])


def pretraining_loader(subslices: Sequence[Data], config: SToFMConfig, steps: int) -> DataLoader:
    """Return a loader of ``steps`` masked sub-slices, drawn at random, one per step."""
    dataset = _MaskedSubSlices(subslices, config)
    sampler = RandomSampler(dataset, replacement=True, num_samples=steps)
    return DataLoader(dataset, sampler=sampler, batch_size=1, collate_fn=collate_subslices)
