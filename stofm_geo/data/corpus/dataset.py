"""A corpus as a map-style data set of sub-slices, opened where and when they are asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from stofm_geo._validation import preview
from stofm_geo.data.corpus.codec import decode
from stofm_geo.data.corpus.index import HEAD, SLICES, checksum_of, read_index
from stofm_geo.data.corpus.store import SliceStore

_CACHE = 128 * 2**20  # bytes that opened slices may take, in each process


class CorpusDataset(Dataset):
    """The sub-slices of a corpus, as :class:`~stofm_geo.data.SubSliceDataset` gives them.

    Genes are numbered in :attr:`genes`, and so by an encoder of them. Nothing is opened before a
    sub-slice is asked for, so that the data set goes to workers of a loader, forked or spawned.

    Args:
        folder: Of ``stofm-geo corpus build``.
        slices: Names of their folders; ``None``: all.
        transform: Of each sub-slice. Its random numbers depend on ``seed``, the epoch
            (:meth:`set_epoch`) and the sub-slice alone, not on the process or the order of loading.
        seed: Of ``transform``.

    Attributes:
        genes: Names of the genes of all slices, sorted.
        technologies: Names of all, sorted.
        settings: How its sub-slices were cut.
        checksum: SHA-256 of all its slices.
        num_nodes: Of each sub-slice, ``[num_subslices]`` int64.

    Raises:
        FileNotFoundError: There is no corpus, or it is not finished.
        KeyError: A slice that is not there.
        ValueError: The corpus is of another version, or damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        slices: Collection[str] | None = None,
        transform: Callable[[Data], Data] | None = None,
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        index = read_index(folder)
        self.genes = pd.Index(index["genes"], dtype=object)
        self.technologies: list[str] = index["technologies"]
        self.settings: dict[str, int] = index["settings"]
        self.checksum = checksum_of(index)
        known = {one["folder"]: one for one in index["slices"]}
        if unknown := sorted(set(slices or ()) - set(known)):
            raise KeyError(f"{folder}: has no slice {preview(unknown)}; it has {preview(known)}")
        chosen = [known[name] for name in sorted(known if slices is None else set(slices))]
        self.slices = [one["folder"] for one in chosen]
        self._head = [one.get(HEAD) for one in chosen]
        self._technology = [self._number_of(one) for one in chosen]
        self.num_nodes = np.array([n for one in chosen for n in one["nodes"]], dtype=np.int64)
        self._first = np.cumsum([0, *(len(one["nodes"]) for one in chosen)])
        self.transform, self.seed, self.epoch = transform, seed, 0
        self._open: OrderedDict[int, tuple[SliceStore, np.ndarray]] = OrderedDict()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the random numbers of ``transform`` depend."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.num_nodes)

    def __getitem__(self, index: int) -> Data:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} sub-slices; found {index}")
        index %= len(self)
        of = int(np.searchsorted(self._first, index, side="right")) - 1
        within = index - int(self._first[of])
        store, number = self._opened(of)
        try:
            subslice = decode(store.record(within), store.common, number, self._technology[of])
        except Exception as error:  # zarr, its codecs and safetensors raise a dozen kinds
            path = self.folder / SLICES / self.slices[of]
            raise OSError(
                f"{path}: sub-slice {within} cannot be read ({error}); run stofm-geo corpus verify"
            ) from error
        if self.transform is None:
            return subslice
        words = f"{self.seed} {self.epoch} {self.slices[of]} {within}".encode()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
            return self.transform(subslice)

    def components(self) -> list[tuple[Tensor, Tensor]]:
        """Return ``panel`` ``[P]`` and ``loadings`` ``[P, components]`` of each slice."""
        found = []
        for of in range(len(self.slices)):
            store, number = self._opened(of)
            panel = torch.from_numpy(number[store.common.components.panel])
            found.append((panel, torch.from_numpy(store.common.components.loadings)))
        return found

    def _number_of(self, one: dict[str, Any]) -> int:
        """Return the number of a slice's technology; 0 without a name, as in a panel encoder."""
        return self.technologies.index(one["technology"]) + 1 if one["technology"] else 0

    def _opened(self, of: int) -> tuple[SliceStore, np.ndarray]:
        """Return a slice and the numbers of its genes; recently used slices stay open.

        Raises:
            OSError: It cannot be opened, or is not what was written.
        """
        if of not in self._open:
            path = self.folder / SLICES / self.slices[of]
            try:
                store = SliceStore(path, self._head[of])
            except Exception as error:  # as above
                raise OSError(
                    f"{path}: cannot be opened ({error}); run stofm-geo corpus verify"
                ) from error
            self._open[of] = store, self.genes.get_indexer(store.genes)
        self._open.move_to_end(of)
        while len(self._open) > 1 and self._bytes() > _CACHE:
            self._open.popitem(last=False)
        return self._open[of]

    def _bytes(self) -> int:
        return sum(store.common.nbytes + number.nbytes for store, number in self._open.values())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}
