"""Loader that can resume within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from stofm_geo.data.corpus.dataset import CorpusDataset
from stofm_geo.data.corpus.sampler import NodeBudgetBatchSampler
from stofm_geo.data.subslices import collate_subslices


class CorpusLoader(DataLoader):
    """Loader of a corpus whose state counts the batches used, not those prefetched by workers.

    Lightning stores the state in checkpoints, so that a killed run resumes with the next batch.
    After the last batch of an epoch, the next epoch starts; Lightning's count of epochs is not
    used, since it lags behind in runs that were stopped at the end of an epoch more than once.

    Args:
        dataset: Sub-slices of the corpus.
        batch_sampler: Sampler of batches of sub-slices.
        num_workers: Number of loading processes; 0 (default): the current process.
        multiprocessing_context: Start method of the workers, ``"fork"``, ``"spawn"`` or
            ``"forkserver"``; ``None``: the default of Python.
    """

    dataset: CorpusDataset
    batch_sampler: NodeBudgetBatchSampler

    def __init__(
        self,
        dataset: CorpusDataset,
        batch_sampler: NodeBudgetBatchSampler,
        num_workers: int = 0,
        multiprocessing_context: str | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=collate_subslices,
            multiprocessing_context=multiprocessing_context,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Runs with the first batch, since the epoch may be set after the iterator is created.
        sampler = self.batch_sampler
        if sampler.position >= len(sampler):
            sampler.set_epoch(sampler.epoch + 1)
        self.dataset.set_epoch(sampler.epoch)
        for batch in super().__iter__():
            sampler.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NodeBudgetBatchSampler.state_dict`."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`NodeBudgetBatchSampler.load_state_dict`."""
        self.batch_sampler.load_state_dict(state_dict)
