"""Sampler of batches with about the same number of nodes, for one or more processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from stofm_geo._validation import check_positive


class NodeBudgetBatchSampler(Sampler[list[int]]):
    """Sampler of batches of sub-slices with a maximum total number of nodes.

    Each epoch shuffles the sub-slices of all slices and cuts them into consecutive batches of about
    equal size. The number of batches is the same in all epochs (a trainer reads it once) and a
    multiple of ``num_replicas``; each process takes every ``num_replicas``-th batch. No sub-slice
    is left out or repeated, and no batch exceeds the budget. So a batch has about ``node_budget``
    minus the largest sub-slice, on average.

    Args:
        num_nodes: Number of nodes of each sub-slice.
        node_budget: Maximum number of nodes of a batch.
        seed: Random seed of the shuffling; with the epoch, it determines the batches (default 0).
        rank: Index of the current process (default 0).
        num_replicas: Number of processes (default 1).
        shuffle: Whether to shuffle the sub-slices (default True).

    Attributes:
        epoch: Index of the epoch.
        position: Number of batches of the epoch that iteration skips, those already used
            (:class:`~stofm_geo.data.corpus.CorpusLoader`).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A sub-slice exceeds the budget, or there are too few for the processes.
    """

    def __init__(
        self,
        num_nodes: Sequence[int],
        node_budget: int,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
    ) -> None:
        check_positive("node_budget", node_budget, whole=True)
        check_positive("num_replicas", num_replicas, whole=True)
        check_positive("seed", seed, whole=True, or_zero=True)
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be from 0 to {num_replicas - 1}; found {rank}")
        self.num_nodes = np.asarray(num_nodes, dtype=np.int64)
        self.node_budget, self.seed, self.shuffle = node_budget, seed, shuffle
        self.rank, self.num_replicas = rank, num_replicas
        self.epoch = self.position = 0
        count = len(self.num_nodes)
        if count < num_replicas:
            raise ValueError(f"{count} sub-slices are too few for {num_replicas} processes")
        largest, total = int(self.num_nodes.max()), int(self.num_nodes.sum())
        if largest > node_budget:
            raise ValueError(
                f"node_budget={node_budget} is too small: a sub-slice has {largest} nodes; raise it"
            )
        # A batch exceeds total / batches by less than the largest sub-slice.
        batches = min(-(-total // max(node_budget - largest, 1)), count)
        self.batches = -(-batches // num_replicas) * num_replicas
        if self.batches > count:
            raise ValueError(
                f"{count} sub-slices, {batches} batches within node_budget={node_budget} nodes, "
                f"cannot be shared by {num_replicas} processes; raise node_budget, or use fewer "
                "processes"
            )

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, unless it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __len__(self) -> int:
        """Return the number of batches per epoch of this process."""
        return self.batches // self.num_replicas

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.all_batches()[self.rank :: self.num_replicas]
        return iter([batch.tolist() for batch in batches[self.position :]])

    def all_batches(self) -> list[np.ndarray]:
        """Return the batches of the epoch of all processes."""
        count = len(self.num_nodes)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(count)
        size = self.num_nodes[order]
        middle = np.cumsum(size) - size / 2
        cuts = np.searchsorted(middle, size.sum() * np.arange(1, self.batches) / self.batches)
        # At least one sub-slice per batch.
        number = np.arange(1, self.batches)
        cuts = np.maximum.accumulate(cuts - number) + number
        cuts = np.maximum(cuts, number)
        cuts = np.minimum(cuts, count - number[::-1])
        return np.split(order, cuts)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the settings; without ``rank``, which differs by process."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "world": self.num_replicas,
            "node_budget": self.node_budget,
            "nodes": int(self.num_nodes.sum()),
            "subslices": len(self.num_nodes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the position of a :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to other sub-slices or settings.
        """
        current = self.state_dict()
        for name in current.keys() - {"epoch", "position"}:
            if state.get(name) != current[name]:
                raise ValueError(
                    f"cannot resume within an epoch: {name} was {state.get(name)!r} and is now "
                    f"{current[name]!r}; use the former value, or start from the weights only"
                )
        self.epoch, self.position = state["epoch"], state["position"]
