"""A slice as a panel model sees it: components of its own, sub-slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._linalg import BLOCK
from stofm_geo.genes.components import Components
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import hold_out
from stofm_geo.transforms import MacroNodes, SpatialKNN, SubSlices


class PanelSlice:
    """One slice: its components, graph and virtual cells.

    Args:
        counts: ``[n, G]``, ``counts[rows]`` being float32 CSR: a matrix, or what is kept smaller.
        pos: Positions in the slice's frame, ``[n, 2]`` float64.
        row: Row of each cell in the source, ``[n]``.
        k: Nearest neighbours a cell is joined to.
        max_macro_nodes: Most virtual cells.
        cells_per_subslice: Most core cells of a sub-slice.
        n_components: Of the slice.
        molecules: Whether to hold out molecules, and fit components to the others.

    Attributes:
        components: Principal components of the slice.
        held_out, train: Counts of both parts of the molecules, ``[n, G]``, with ``molecules``.
        fractions: Components of fractions, with ``molecules``, or ``None``.
        data: The graph without edges of virtual nodes; ``x`` are the components.
        cuts: The sub-slices of ``data``, cut when asked for; ``node`` tells a node's number in it.
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
        molecules: bool = False,
    ) -> None:
        self.counts = self.train = counts
        self.fractions: FractionComponents | None = None
        if molecules:
            self.held_out, self.train = hold_out(counts[:])
        self.components = Components.from_blocks(self._blocks, n_components)
        if molecules:
            size = max(min(n_components, len(pos) - 1, len(self.components.panel) - 1), 1)
            own = FractionComponents.from_counts([self.train], [self.held_out], size)
            self.fractions = own.padded(n_components)
        x = np.empty((len(pos), n_components), dtype=np.float32)
        for start in range(0, len(pos), BLOCK):
            x[start : start + BLOCK] = self.components(counts[start : start + BLOCK])
        data = Data(
            x=torch.from_numpy(x),
            pos=torch.from_numpy(pos),
            n_id=torch.from_numpy(row.copy()),
        )
        graph = Compose([SpatialKNN(k), MacroNodes(max_nodes=max_macro_nodes, join=False)])
        self.data = graph(data)
        self.data.node = torch.arange(self.data.num_nodes)
        # Two edges of halo, so that the niches of border cells are whole.
        self.cuts = SubSlices(cells_per_subslice, halo=2).lazily(self.data)

    def _blocks(self) -> Iterator[sp.csr_matrix]:
        for start in range(0, self.train.shape[0], BLOCK):
            yield self.train[start : start + BLOCK]
