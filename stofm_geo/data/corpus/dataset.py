"""Map-style data set of the sub-slices of a corpus, which are opened on demand."""

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

_CACHE = 256 * 2**20  # bytes of open slices, per process


class CorpusDataset(Dataset):
    """Data set of the sub-slices of a corpus, as :class:`~stofm_geo.data.SubSliceDataset`.

    Gene indices refer to :attr:`genes`. Files are opened when a sub-slice is read, so that the data
    set can be sent to the workers of a loader, forked or spawned.

    Args:
        folder: Folder made by ``stofm-geo corpus build``.
        slices: Names of the folders of the slices to use; ``None``: all.
        transform: Transform of each sub-slice. Its random numbers depend only on ``seed``, the
            epoch (:meth:`set_epoch`) and the sub-slice, not on the process or the order of loading.
        seed: Random seed of ``transform``.

    Attributes:
        genes: Names of the genes of all slices, sorted.
        technologies: Names of the technologies, sorted.
        settings: Settings by which the sub-slices were made.
        checksum: SHA-256 of all slices.
        num_nodes: Number of nodes of each sub-slice, ``[num_subslices]`` int64.

    Raises:
        FileNotFoundError: There is no corpus, or its build is not finished.
        KeyError: The corpus lacks one of ``slices``.
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
        known = {entry["folder"]: entry for entry in index["slices"]}
        if unknown := sorted(set(slices or ()) - set(known)):
            raise KeyError(f"{folder}: has no slice {preview(unknown)}; it has {preview(known)}")
        entries = [known[name] for name in sorted(known if slices is None else set(slices))]
        self.slices = [entry["folder"] for entry in entries]
        self._head = [entry.get(HEAD) for entry in entries]
        self._technology = [self._technology_index(entry) for entry in entries]
        self.num_nodes = np.array([n for entry in entries for n in entry["nodes"]], dtype=np.int64)
        self._first = np.cumsum([0, *(len(entry["nodes"]) for entry in entries)])
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
        slice_index = int(np.searchsorted(self._first, index, side="right")) - 1
        within = index - int(self._first[slice_index])
        store, gene_index = self._opened(slice_index)
        try:
            subslice = decode(
                store.record(within), store.common, gene_index, self._technology[slice_index]
            )
        except Exception as error:  # zarr, its codecs and safetensors raise many types
            path = self.folder / SLICES / self.slices[slice_index]
            raise OSError(
                f"{path}: sub-slice {within} cannot be read ({error}); run stofm-geo corpus verify"
            ) from error
        if self.transform is None:
            return subslice
        words = f"{self.seed} {self.epoch} {self.slices[slice_index]} {within}".encode()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
            return self.transform(subslice)

    def components(self) -> list[tuple[Tensor, Tensor]]:
        """Return ``panel`` ``[P]`` and ``loadings`` ``[P, components]`` of each slice."""
        components = []
        for slice_index in range(len(self.slices)):
            store, gene_index = self._opened(slice_index)
            panel = torch.from_numpy(gene_index[store.common.components.panel])
            components.append((panel, torch.from_numpy(store.common.components.loadings)))
        return components

    def _technology_index(self, entry: dict[str, Any]) -> int:
        """Return the technology index of a slice; 0 without a name, as in a panel encoder."""
        return self.technologies.index(entry["technology"]) + 1 if entry["technology"] else 0

    def _opened(self, slice_index: int) -> tuple[SliceStore, np.ndarray]:
        """Return an open slice and the indices of its genes; recently used slices stay open.

        Raises:
            OSError: The slice cannot be opened, or is damaged.
        """
        if slice_index not in self._open:
            path = self.folder / SLICES / self.slices[slice_index]
            try:
                store = SliceStore(path, self._head[slice_index])
                self._open[slice_index] = store, self.genes.get_indexer(store.genes())
            except Exception as error:  # as above
                raise OSError(
                    f"{path}: cannot be opened ({error}); run stofm-geo corpus verify"
                ) from error
        self._open.move_to_end(slice_index)
        while len(self._open) > 1 and self._bytes() > _CACHE:
            self._open.popitem(last=False)
        return self._open[slice_index]

    def _bytes(self) -> int:
        return sum(
            store.common.nbytes + gene_index.nbytes for store, gene_index in self._open.values()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}
