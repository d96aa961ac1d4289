"""Lightning data module of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.data.corpus import CorpusDataset, CorpusLoader, NodeBudgetBatchSampler, read_index
from stofm_geo.data.subslices import collate_subslices


class CorpusDataModule(L.LightningDataModule):
    """Data module of a corpus, with whole slices held out for validation.

    With several processes, set ``use_distributed_sampler=False`` in the trainer, since this module
    distributes the batches.

    Args:
        folder: Folder made by ``stofm-geo corpus build``.
        node_budget: Maximum number of nodes of a batch.
        num_workers: Number of loading processes per training process (default 0).
        seed: Random seed of the order of sub-slices, of ``transform``, and of the held-out slices.
        held_out: Fraction of the slices, or names of their folders (default 0.1). A fraction above
            0 holds out at least one slice. If the corpus grows, few held-out slices change.
        transform: Transform of each sub-slice, such as masking; see :class:`CorpusDataset`. In
            validation, its random numbers are the same each time.

    Attributes:
        held_out: Sorted names of the folders of held-out slices.
        train: :class:`CorpusDataset` of the training slices.
        val: :class:`CorpusDataset` of the held-out slices.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: As :class:`CorpusDataset`, or no slice
            is left to train on.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        node_budget: int,
        num_workers: int = 0,
        seed: int = 0,
        held_out: float | Collection[str] = 0.1,
        transform: Callable[[Data], Data] | None = None,
    ) -> None:
        super().__init__()
        check_positive("workers", num_workers, whole=True, or_zero=True)
        check_positive("node_budget", node_budget, whole=True)
        names = [entry["folder"] for entry in read_index(folder)["slices"]]
        if isinstance(held_out, str) or not isinstance(held_out, Collection):
            check_fraction("held_out", held_out)
            held_out = _draw_held_out(names, float(held_out), seed)
        self.node_budget, self.num_workers, self.seed = node_budget, num_workers, seed
        self.held_out = sorted(held_out)
        if not (rest := set(names) - set(held_out)):
            raise ValueError(f"{folder}: all {len(names)} slices are held out; hold out fewer")
        self.train = CorpusDataset(folder, rest, transform, seed)
        self.val = CorpusDataset(folder, self.held_out, transform, seed)

    def train_dataloader(self) -> CorpusLoader:
        """Return the loader of the training batches of this process."""
        return CorpusLoader(self.train, self._batches(self.train, True), self.num_workers)

    def val_dataloader(self) -> DataLoader | list:
        """Return the loader of the held-out slices, or an empty list if there are none."""
        if not self.held_out:
            return []
        sampler = self._batches(self.val, False)
        return DataLoader(
            self.val,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_subslices,
        )

    def _batches(self, dataset: CorpusDataset, shuffle: bool) -> NodeBudgetBatchSampler:
        rank, world = 0, 1
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
        return NodeBudgetBatchSampler(
            dataset.num_nodes.tolist(), self.node_budget, self.seed, rank, world, shuffle
        )


def _draw_held_out(names: list[str], fraction: float, seed: int) -> list[str]:
    """Draw a fraction of the names such that adding names changes few of those drawn."""
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return drawn[: max(round(fraction * len(names)), 1) if fraction else 0]
