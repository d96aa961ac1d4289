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

    Attributes:
        components: What the slice's genes do together.
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
    ) -> None:
        self.counts = counts
        self.components = Components.from_blocks(self._blocks, n_components)
        x = np.empty((len(pos), n_components), dtype=np.float32)
        for start, block in zip(range(0, len(pos), BLOCK), self._blocks(), strict=True):
            x[start : start + BLOCK] = self.components(block)
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
        for start in range(0, self.counts.shape[0], BLOCK):
            yield self.counts[start : start + BLOCK]
