"""Neighbour graphs of cells: k nearest neighbours, radius and Delaunay."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.utils import sort_edge_index

from stofm_geo._validation import check_positive
from stofm_geo.transforms import neighbor_search
from stofm_geo.transforms._base import GraphTransform
from stofm_geo.transforms._slices import (
    cell_mask,
    drop_edge_attributes,
    edge_keys,
    edges_by_slice,
    rows_by_slice,
)
from stofm_geo.transforms._validation import check_attribute


class _CellGraph(GraphTransform):
    """Base class that replaces cell-cell edges within slices and keeps edges of virtual nodes."""

    @abstractmethod
    def search(self, pos: Tensor) -> Tensor:
        """Return the undirected edges ``[2, E]`` of points ``[n, 2]``."""

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        edges = [rows[self.search(data.pos[rows])] for rows in rows_by_slice(data)]
        if data.edge_index is not None:
            virtual = ~cell_mask(data)
            stay = virtual[data.edge_index].any(dim=0)
            if stay.any():
                edges.append(data.edge_index[:, stay])
        if not edges:  # no cells
            edges.append(torch.empty(2, 0, dtype=torch.long, device=data.pos.device))
        edge_index = torch.cat(edges, dim=1)
        if len(edges) > 1:  # the edges of a single slice are sorted
            edge_index = sort_edge_index(edge_index, num_nodes=data.num_nodes, sort_by_row=False)
        drop_edge_attributes(data)
        data.edge_index = edge_index
        return data


@functional_transform("spatial_knn")
class SpatialKNN(_CellGraph):
    """Join each cell to its ``k`` nearest cells, and to all with the distance of the ``k``-th.

    Keeping ties makes the graph of a lattice (Visium, ST) invariant to rotation. The graph is
    undirected: a pair is joined if one is a neighbour of the other.

    Args:
        k: Number of neighbours of a cell, without itself (default 12). In a slice with fewer
            cells, all are joined.

    Raises:
        ValueError: ``k`` is not a positive integer, or so many cells share one position that the
            graph would not fit in memory.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import SpatialKNN
        >>> data = Data(pos=torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
        >>> SpatialKNN(k=1)(data).edge_index.tolist()
        [[1, 0, 2, 1], [0, 1, 1, 2]]
    """

    def __init__(self, k: int = 12) -> None:
        check_positive("k", k, whole=True)
        self.k = k

    def search(self, pos: Tensor) -> Tensor:
        """See :class:`_CellGraph`."""
        return neighbor_search.knn(pos, self.k)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k})"


@functional_transform("spatial_radius")
class SpatialRadius(_CellGraph):
    """Join all pairs of cells with a distance of at most ``r``.

    Args:
        r: Distance in the units of ``data.pos``, which are cell spacings after
            :class:`NormalizePositions`.

    Raises:
        ValueError: ``r`` is not positive, or gives a mean degree above 1 000.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import SpatialRadius
        >>> data = Data(pos=torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
        >>> SpatialRadius(r=1.5)(data).edge_index.tolist()
        [[1, 0], [0, 1]]
    """

    def __init__(self, r: float) -> None:
        check_positive("r", r)
        self.r = r

    def search(self, pos: Tensor) -> Tensor:
        """See :class:`_CellGraph`."""
        return neighbor_search.radius(pos, self.r)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(r={self.r})"


@functional_transform("spatial_delaunay")
class SpatialDelaunay(_CellGraph):
    """Join the pairs of cells that every Delaunay triangulation of the slice joins.

    If four or more cells lie on one empty circle, the triangulation is not unique; edges inside
    that circle are left out, so that rotating a lattice changes nothing. Cells at one position are
    joined to each other and share their neighbours. Follow with :class:`PruneLongEdges` to drop the
    long edges along the outline and across holes. It has no settings.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import SpatialDelaunay
        >>> square = Data(pos=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        >>> SpatialDelaunay()(square).num_edges  # four sides in both directions, no diagonal
        8
    """

    def search(self, pos: Tensor) -> Tensor:
        """See :class:`_CellGraph`."""
        return neighbor_search.delaunay(pos)


@functional_transform("prune_long_edges")
class PruneLongEdges(GraphTransform):
    """Drop cell-cell edges that are much longer than usual: across holes, tears and the outline.

    Args:
        factor: Edges longer than ``factor`` times the median edge length of their slice are dropped
            (default 3).

    Raises:
        ValueError: ``factor`` is not positive, or ``data`` has no ``edge_index``.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import PruneLongEdges, SpatialKNN
        >>> row = Data(pos=torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [20.0, 0.0]]))
        >>> data = SpatialKNN(k=1)(row)
        >>> data.num_edges, PruneLongEdges()(data).num_edges
        (6, 4)
    """

    def __init__(self, factor: float = 3.0) -> None:
        check_positive("factor", factor)
        self.factor = factor

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        check_attribute(data, "edge_index", type(self).__name__, "run SpatialDelaunay() first")

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        src, dst = data.edge_index
        length = (data.pos[src] - data.pos[dst]).norm(dim=1)
        cells = cell_mask(data)
        keep = ~(cells[src] & cells[dst])
        for edges in edges_by_slice(data, rows_by_slice(data)):
            if len(edges):
                limit = self.factor * length[edges].median() * (1 + neighbor_search.TIE)
                keep[edges] = length[edges] <= limit
        kept = keep.nonzero().view(-1)
        for key in edge_keys(data):
            data[key] = data[key].index_select(data.__cat_dim__(key, data[key]), kept)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(factor={self.factor})"
