"""Micro scale of a slice: compact sub-slices with a halo; each cell is core in one of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import sort_edge_index

from stofm_geo._validation import check_positive
from stofm_geo.transforms import neighbor_search
from stofm_geo.transforms._base import BatchGraphs
from stofm_geo.transforms._slices import cell_mask, rows_by_slice
from stofm_geo.transforms._validation import (
    check_attribute,
    check_data,
    check_edges,
    check_pos,
)


@functional_transform("sub_slices")
class SubSlices(BaseTransform):
    """Cut each slice into compact sub-slices of equal size (up to one cell).

    A slice is halved recursively across its longest extent. The direction of a cut is that between
    two far-apart cells, so the cuts rotate with the tissue; on a lattice, ties between equally far
    cells are broken by row. Each cell is *core* in exactly one sub-slice. The *halo* around the
    core gives border cells the neighbours that they have in the whole slice. All virtual nodes of
    the slice (:class:`MacroNodes`) are in every sub-slice.

    Returns a ``list[Data]``; each has the induced edges, ``core_mask`` (bool) and ``n_id`` (the
    index of the node in ``data``, or ``data.n_id`` if that exists). For a batch, these are the
    sub-slices of all graphs in order, without ``batch``.

    Args:
        num_cells: Maximum number of core cells of a sub-slice (default 1000); it has at least half
            as many unless the slice is smaller.
        halo: Width of the halo in edges (default 1); 0 for none.

    Raises:
        ValueError: ``num_cells`` is not positive, ``halo`` is negative, or ``data`` has no
            ``edge_index``.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.transforms import SpatialKNN, SubSlices
        >>> data = SpatialKNN()(from_anndata(datasets.toy_tissue(200, 30, seed=0)))
        >>> [int(part.core_mask.sum()) for part in SubSlices(num_cells=60)(data)]
        [50, 50, 50, 50]
    """

    def __init__(self, num_cells: int = 1000, halo: int = 1) -> None:
        check_positive("num_cells", num_cells, whole=True)
        check_positive("halo", halo, whole=True, or_zero=True)
        self.num_cells = num_cells
        self.halo = halo

    def forward(self, data: Data) -> list[Data]:
        """Return the sub-slices."""
        return list(self.lazily(data))

    def lazily(self, data: Data, transform: Callable[[Data], Data] | None = None) -> Sequence[Data]:
        """Return the same sub-slices as a sequence that cuts each on access, to save memory.

        Args:
            data: Graph or batch.
            transform: Transform applied to each sub-slice.
        """
        check_data(data, type(self).__name__)
        check_attribute(data, "edge_index", type(self).__name__, "run SpatialKNN() first")
        data = copy.copy(data)
        check_edges(data)
        data.pos = check_pos(data)
        graphs = [data]
        if "batch" in data:
            if "n_id" not in data:
                data.n_id = torch.arange(data.num_nodes, device=data.pos.device)
            graphs = BatchGraphs(data).complete()
        cuts = []
        for graph in graphs:
            cutter = _SubgraphCutter(graph)
            for rows in rows_by_slice(graph):
                pos = graph.pos[rows].detach().double().cpu().numpy()
                cuts += [
                    (cutter, rows[torch.from_numpy(p)]) for p in _split_rows(pos, self.num_cells)
                ]
        return SubSliceSequence(cuts, self.halo, transform)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_cells={self.num_cells}, halo={self.halo})"


class SubSliceSequence(Sequence[Data]):
    """Sequence of sub-slices that are cut on access, made by :meth:`SubSlices.lazily`.

    Args:
        cuts: For each sub-slice, what cuts it out of its graph, and its core cells.
        halo: Width of the halo in edges.
        transform: Transform applied to each sub-slice; ``None``: none.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.transforms import SpatialKNN, SubSlices
        >>> data = SpatialKNN()(from_anndata(datasets.toy_tissue(200, 30, seed=0)))
        >>> parts = SubSlices(num_cells=60).lazily(data)
        >>> type(parts).__name__, len(parts), int(parts[0].core_mask.sum())
        ('SubSliceSequence', 4, 50)
    """

    def __init__(
        self,
        cuts: list[tuple[_SubgraphCutter, Tensor]],
        halo: int,
        transform: Callable[[Data], Data] | None,
    ) -> None:
        self.cuts = cuts
        self.halo = halo
        self.transform = transform

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> Data:  # type: ignore[override]
        cutter, core = self.cuts[index]
        sub_slice = cutter.cut(core, self.halo)
        return sub_slice if self.transform is None else self.transform(sub_slice)


class _SubgraphCutter:
    """Cut sub-slices out of one graph, each at the cost of that sub-slice only."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.is_cell = cell_mask(data)
        src, dst = data.edge_index
        # An edge belongs to its destination, or to its source if the destination is a virtual node.
        owner = torch.where(self.is_cell[dst], dst, src)
        self.among_virtual = (~self.is_cell[owner]).nonzero().view(-1)
        self.by_owner = owner.argsort(stable=True)
        count = torch.bincount(owner, minlength=data.num_nodes)
        self.ptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
        self.virtual = (~self.is_cell).nonzero().view(-1)
        # Index of each node in the current sub-slice, -1 outside; the extra entry maps -1 to -1.
        self.local_index = torch.full((data.num_nodes + 1,), -1, device=src.device)

    def cut(self, core: Tensor, halo: int) -> Data:
        """Return the sub-slice with these core cells."""
        data = self.data
        cells = core
        for _ in range(halo):
            sources = data.edge_index[0, self._owned(cells)]
            cells = torch.cat([cells, sources[self.is_cell[sources]]]).unique()
        virtual = self.virtual
        if "slice_id" in data:
            virtual = virtual[data.slice_id[virtual] == data.slice_id[core[0]]]
        nodes = torch.cat([cells, virtual])
        self.local_index[nodes] = torch.arange(len(nodes), device=nodes.device)
        edges = torch.cat([self._owned(cells), self.among_virtual])
        edge_index = self.local_index[data.edge_index[:, edges]]
        inside = (edge_index >= 0).all(dim=0)
        edge_index, edges = sort_edge_index(
            edge_index[:, inside], edges[inside], num_nodes=len(nodes), sort_by_row=False
        )

        sub_slice = copy.copy(data)
        for key, value in data:
            if key == "edge_index":
                sub_slice.edge_index = edge_index
            elif key == "cluster":
                sub_slice.cluster = self.local_index[value[nodes]]
            elif data.is_node_attr(key):
                sub_slice[key] = value[nodes]
            elif data.is_edge_attr(key):
                sub_slice[key] = value[edges]
        sub_slice.num_nodes = len(nodes)
        if "n_id" not in data:
            sub_slice.n_id = nodes
        sub_slice.core_mask = torch.isin(nodes, core)
        self.local_index[nodes] = -1
        return sub_slice

    def _owned(self, cells: Tensor) -> Tensor:
        """Return the indices of the edges that belong to ``cells``."""
        start, count = self.ptr[cells], self.ptr[cells + 1] - self.ptr[cells]
        first = count.cumsum(0) - count
        within = torch.arange(int(count.sum()), device=cells.device)
        return self.by_owner[within + (start - first).repeat_interleave(count)]


def _split_rows(pos: np.ndarray, max_cells: int) -> list[np.ndarray]:
    """Return the rows of each sub-slice, ascending; sizes differ by one at most."""
    subslices = []
    pending = [(np.arange(len(pos)), math.ceil(len(pos) / max_cells))]
    while pending:
        rows, count = pending.pop()
        if count <= 1:
            subslices.append(np.sort(rows))
            continue
        ordered = rows[_order_along_longest(pos[rows])]
        cut = round(len(rows) * (count // 2) / count)
        pending.append((ordered[cut:], count - count // 2))
        pending.append((ordered[:cut], count // 2))
    return subslices


def _order_along_longest(pos: np.ndarray) -> np.ndarray:
    """Return the order of points along the line between two far ends, ties by row."""
    centred = pos - pos.mean(axis=0)
    start = centred[_first_of_farthest(np.linalg.norm(centred, axis=1))]
    end = centred[_first_of_farthest(np.linalg.norm(centred - start, axis=1))]
    axis = end - start
    length = np.linalg.norm(axis)
    if length == 0:
        return np.arange(len(pos))
    axis = axis / length
    tie = neighbor_search.TIE * length / math.sqrt(len(pos))
    along = _groups(centred @ axis, float(tie))
    across = _groups(centred @ np.array([-axis[1], axis[0]]), float(tie))
    return np.lexsort((across, along))  # stable: ties by row


def _first_of_farthest(distance: np.ndarray) -> int:
    return int(np.flatnonzero(distance >= distance.max() * (1 - neighbor_search.TIE))[0])


def _groups(value: np.ndarray, tie: float) -> np.ndarray:
    """Return the rank of each value; neighbours closer than ``tie`` share a rank."""
    order = np.argsort(value, kind="stable")
    step = np.diff(value[order], prepend=value[order[0]]) > tie
    number = np.empty(len(value), dtype=np.int64)
    number[order] = np.cumsum(step)
    return number
