"""A slice as a panel model sees it: values made of counts, components of its own, pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo._principal import BLOCK, half_whitening, sparse_axes
from stofm_geo.genes.panel_encoder import centre_and_scale, root_shares
from stofm_geo.transforms import MacroNodes, SpatialKNN, SubSlices


class PanelSlice:
    """One slice: its graph, virtual cells and components. Values are made a block at a time.

    Args:
        counts: ``[n, G]``, ``counts[rows]`` being float32 CSR: a matrix, or what is kept smaller.
        pos: Positions in the slice's frame, ``[n, 2]`` float64.
        row: Row of each cell in the source, ``[n]``.
        k: Nearest neighbours a cell is joined to.
        max_macro_nodes: Most virtual cells.
        cells_per_subslice: Most core cells of a piece.
        n_components: Of the values. Where the slice has fewer, zeros fill up, so that pieces of
            any slices fit into one batch.

    Attributes:
        scale: What values are divided by.
        panel: Numbers of the genes that have counts, ``[P]``.
        loadings: From their values to components, ``[P, n_components]`` float32.
        centre: Components of the mean, ``[n_components]`` float32.
        data: The graph without edges of virtual nodes; ``x`` are the components.
        virtual: Values of the virtual nodes, ``[V, G]`` float32: CLS has the mean of the slice, a
            virtual cell that of its cells.
        cuts: The pieces of ``data``, cut when asked for; ``node`` tells a node's number in it.
    """

    def __init__(
        self,
        counts: Any,
        pos: np.ndarray,
        row: np.ndarray,
        *,
        k: int,
        max_macro_nodes: int,
        cells_per_subslice: int,
        n_components: int,
    ) -> None:
        self.counts = counts
        mean, self.scale = centre_and_scale(root_shares(block) for block in self._blocks())
        self.panel = np.flatnonzero(mean)
        self.loadings, self.centre = self._components(n_components)
        x = np.empty((len(pos), n_components), dtype=np.float32)
        for start, block in zip(range(0, len(pos), BLOCK), self._values(), strict=True):
            x[start : start + BLOCK] = components(block, self)
        data = Data(
            x=torch.from_numpy(x),
            pos=torch.from_numpy(pos),
            n_id=torch.from_numpy(row.copy()),
        )
        graph = Compose([SpatialKNN(k), MacroNodes(max_nodes=max_macro_nodes, join=False)])
        self.data = graph(data)
        self.data.node = torch.arange(self.data.num_nodes)
        self.virtual = self._means()
        # Two edges of halo, so that the niches of border cells are whole.
        self.cuts = SubSlices(cells_per_subslice, halo=2).lazily(self.data)

    def _blocks(self) -> Iterator[sp.csr_matrix]:
        for start in range(0, self.counts.shape[0], BLOCK):
            yield self.counts[start : start + BLOCK]

    def _values(self) -> Iterator[sp.csr_matrix]:
        return (values(block, self.scale) for block in self._blocks())

    def _components(self, n_components: int) -> tuple[np.ndarray, np.ndarray]:
        """Principal axes of the values of the panel, halfway whitened."""
        shape = self.counts.shape[0], len(self.panel)
        count = max(min(n_components, *(size - 1 for size in shape)), 1)
        blocks = (block[:, self.panel] for block in self._values())
        mean, axes, variance = sparse_axes(blocks, count)
        loadings = np.zeros((len(self.panel), n_components), dtype=np.float32)
        loadings[:, :count] = (axes / half_whitening(variance)[:, None]).T
        return loadings, (mean @ loadings).astype(np.float32)

    def _means(self) -> sp.csr_matrix:
        n = self.counts.shape[0]
        cluster = self.data.cluster[:n].numpy() - n
        shape = self.data.num_nodes - n, self.counts.shape[1]
        total = np.zeros(shape)
        for start, block in zip(range(0, n, BLOCK), self._values(), strict=True):
            of = cluster[start : start + BLOCK]
            each = (np.ones(len(of)), (of, np.arange(len(of))))
            total += (sp.csr_matrix(each, shape=(shape[0], len(of))) @ block).toarray()
        size = np.bincount(cluster, minlength=shape[0])
        cls = self.data.node_type[n:].numpy() == NodeType.CLS
        total[cls], size[cls] = total.sum(axis=0), n
        return sp.csr_matrix(total / size[:, None], dtype=np.float32)


def values(counts: sp.csr_matrix, scale: np.float32) -> sp.csr_matrix:
    """Values of a panel encoder (:meth:`~stofm_geo.genes.PanelEncoder.read`) of some cells."""
    found = root_shares(counts)
    found.data /= scale
    return found


def components(of: sp.csr_matrix, panel_slice: Any) -> np.ndarray:
    """Components of values, ``[n, n_components]`` float32.

    Args:
        of: Values, ``[n, G]``.
        panel_slice: What has ``panel``, ``loadings`` and ``centre``.
    """
    return of[:, panel_slice.panel] @ panel_slice.loadings - panel_slice.centre
