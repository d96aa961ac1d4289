"""A corpus as a Lightning data module."""

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
    """A corpus for a Lightning trainer; slices are held out whole, never sub-slices of them.

    With several processes, give the trainer ``use_distributed_sampler=False``: the batches are
    shared out here.

    Args:
        folder: Of ``stofm-geo corpus build``.
        node_budget: Most nodes of a batch.
        num_workers: Processes that load for each process that trains (default 0: none).
        seed: Of the order of sub-slices, of ``transform``, and of what is held out.
        held_out: Share of the slices, or names of their folders (default 0.1). Of a share above
            0, one at least; which does not change much when the corpus grows.
        transform: Of each sub-slice, hiding and moving, say; see :class:`CorpusDataset`. In
            validation, it draws the same each time.

    Attributes:
        held_out: Names of the slices that are held out, sorted.
        train: The :class:`CorpusDataset` of the others.
        val: That of the slices held out.

    Raises:
        FileNotFoundError, KeyError, TypeError, ValueError: As :class:`CorpusDataset`; or nothing
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
        names = [one["folder"] for one in read_index(folder)["slices"]]
        if isinstance(held_out, str) or not isinstance(held_out, Collection):
            check_fraction("held_out", held_out)
            held_out = _share(names, float(held_out), seed)
        self.node_budget, self.num_workers, self.seed = node_budget, num_workers, seed
        self.held_out = sorted(held_out)
        if not (rest := set(names) - set(held_out)):
            raise ValueError(f"{folder}: all {len(names)} slices are held out; hold out fewer")
        self.train = CorpusDataset(folder, rest, transform, seed)
        self.val = CorpusDataset(folder, self.held_out, transform, seed)

    def train_dataloader(self) -> CorpusLoader:
        """Return the training batches of an epoch, for this process."""
        return CorpusLoader(self.train, self._batches(self.train, True), self.num_workers)

    def val_dataloader(self) -> DataLoader | list:
        """Return the batches of the held-out slices; an empty list without such slices."""
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


def _share(names: list[str], share: float, seed: int) -> list[str]:
    """Draw a share of the names such that adding names changes few of those drawn."""
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return drawn[: max(round(share * len(names)), 1) if share else 0]
