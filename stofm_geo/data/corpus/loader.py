"""A loader that resumes inside an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from stofm_geo.data.corpus.dataset import CorpusDataset
from stofm_geo.data.corpus.sampler import NodeBudgetBatchSampler
from stofm_geo.data.subslices import collate_subslices


class CorpusLoader(DataLoader):
    """Batches of a corpus, whose state is that of what was used, not of what workers prefetched.

    Lightning keeps the state in checkpoints, so that a run that was killed goes on with the very
    next batch. An epoch that was used up is followed by the next; Lightning's own count of epochs
    lags behind in runs that were stopped at the end of one more than once.

    Args:
        dataset: Its sub-slices.
        batch_sampler: Which of them.
        num_workers: Processes that load; 0: this one (default).
        multiprocessing_context: How workers start: ``"fork"``, ``"spawn"`` or ``"forkserver"``;
            ``None``: as Python does by default.
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
        # When the first batch is asked for: an epoch may be set after the iterator was made.
        where = self.batch_sampler
        if where.position >= len(where):
            where.set_epoch(where.epoch + 1)
        self.dataset.set_epoch(where.epoch)
        for batch in super().__iter__():
            where.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NodeBudgetBatchSampler.state_dict`."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`NodeBudgetBatchSampler.load_state_dict`."""
        self.batch_sampler.load_state_dict(state_dict)
