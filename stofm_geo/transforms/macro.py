"""The macro scale: a slice's clusters as virtual nodes, and one CLS node."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import scatter, sort_edge_index

from stofm_geo._checks import check_positive
from stofm_geo._keys import NodeType
from stofm_geo.transforms._leiden import leiden
from stofm_geo.transforms._slices import cell_mask, rows_by_slice

# The columns of x the clustering looks at: principal components come first, noise last.
_COLUMNS = 20
# Edges whose ends' vectors are held at once.
_EDGES = 2**18


@functional_transform("macro_nodes")
class MacroNodes(BaseTransform):
    """Add one CLS node and one virtual node a cluster to each slice, joined to all its cells.

    Clusters are Leiden communities of the neighbour graph, its edges weighted by how alike the
    surroundings of two cells are; communities beyond ``max_nodes`` are merged by the likeness of
    their mean features (Ward). Only features and the graph enter, never coordinates, so a turned
    slice has the same clusters. A virtual node lies at its cells' mean position and has their mean
    feature; CLS lies at the slice's mean position and has feature 0.

    The new nodes come after the cells, a slice's CLS before its virtual cells. Sets
    ``data.node_type`` (:class:`~stofm_geo._keys.NodeType` codes), ``data.cluster`` (for a cell the
    index of its virtual node, else -1) and ``data.cluster_size`` (for a virtual cell the number of
    its cells, else 0), and extends ``x``, ``pos``, ``edge_index`` and, where
    there, ``n_id`` (by -1) and ``slice_id``. Every virtual node is also joined to the others.

    Args:
        resolution: Of the Leiden modularity; higher gives more clusters (default 1).
        max_nodes: Most virtual nodes a slice gets, CLS not counted (default 16).
        seed: Of the Leiden algorithm (default 0).
        join: Whether the new nodes get their edges, two for each cell and virtual node (default).
            Of a large slice they fill memory; cut it first, and join its pieces
            (:class:`JoinMacroNodes`).

    Raises:
        ValueError: ``data`` has no ``edge_index`` or has virtual nodes already.
    """

    def __init__(
        self, resolution: float = 1.0, max_nodes: int = 16, seed: int = 0, join: bool = True
    ) -> None:
        check_positive("resolution", resolution)
        check_positive("max_nodes", max_nodes, whole=True)
        self.resolution = resolution
        self.max_nodes = max_nodes
        self.seed = seed
        self.join = join

    def forward(self, data: Data) -> Data:
        """Return ``data`` with its virtual nodes."""
        if data.edge_index is None:
            raise ValueError("MacroNodes needs data.edge_index; run SpatialKNN() first")
        if "node_type" in data:
            raise ValueError("data has virtual nodes already; run MacroNodes once")
        n, device = data.num_nodes, data.pos.device
        cluster = torch.full((n,), -1, device=device)
        x, pos = [data.x], [data.pos]
        kind, slice_of = [torch.full((n,), NodeType.CELL, device=device)], []
        for rows in rows_by_slice(data):
            label = self.cluster(data, rows.cpu()).to(device)
            count = int(label.max()) + 1 if len(label) else 0
            first = sum(map(len, x))
            cluster[rows] = label + first + 1
            x += [torch.zeros_like(data.x[:1]), scatter(data.x[rows], label, reduce="mean")]
            pos += [
                data.pos[rows].mean(dim=0, keepdim=True),
                scatter(data.pos[rows], label, reduce="mean"),
            ]
            kind.append(torch.tensor([NodeType.CLS] + [NodeType.MACRO] * count, device=device))
            if "slice_id" in data:
                slice_of.append(data.slice_id[rows[:1]].expand(1 + count))
        data.x, data.pos, data.node_type = torch.cat(x), torch.cat(pos), torch.cat(kind)
        none = torch.full((data.num_nodes - n,), -1, device=device)
        data.cluster = torch.cat([cluster, none])
        data.cluster_size = torch.bincount(cluster[cluster >= 0], minlength=data.num_nodes)
        if "n_id" in data:
            data.n_id = torch.cat([data.n_id, none])
        if "slice_id" in data:
            data.slice_id = torch.cat([data.slice_id, *slice_of])
        return JoinMacroNodes()(data) if self.join else data

    def cluster(self, data: Data, rows: Tensor) -> Tensor:
        """Cluster numbers from 0 for the cells ``rows`` of one slice; all on the CPU."""
        n = len(rows)
        edge_index = data.edge_index.cpu()
        if n < data.num_nodes:
            place = torch.full((data.num_nodes,), -1)
            place[rows] = torch.arange(n)
            edge_index = place[edge_index]
            edge_index = edge_index[:, (edge_index >= 0).all(dim=0)]
        src, dst = edge_index
        around, weight = _likeness(data.x.cpu()[rows, :_COLUMNS].double(), src, dst)
        once = src < dst
        label = leiden(
            n,
            edge_index[:, once].t().numpy(),
            weight[once].numpy(),
            resolution=self.resolution,
            seed=self.seed,
        )
        if n and label.max() >= self.max_nodes:
            label = self._merge(around, torch.from_numpy(label))[label]
        return torch.from_numpy(np.unique(label, return_inverse=True)[1]).view(-1)

    def _merge(self, around: Tensor, label: Tensor) -> np.ndarray:
        """The merged cluster of each community."""
        mean = scatter(around, label, reduce="mean").numpy()
        return AgglomerativeClustering(n_clusters=self.max_nodes).fit_predict(mean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(resolution={self.resolution}, max_nodes={self.max_nodes})"


def _likeness(x: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """Each cell's surroundings ``[n, F]``, and how alike those of an edge's ends are, ``[E]``."""
    # Surroundings: the mean over a cell and its neighbours, which tames the counting noise.
    # A sparse matrix, and then a few edges at a time: no tensor of edges x features.
    near = sp.csr_matrix((np.ones(len(src)), (dst.numpy(), src.numpy())), shape=(len(x), len(x)))
    count = torch.bincount(dst, minlength=len(x)) + 1
    around = (torch.from_numpy(near @ x.numpy()) + x) / count[:, None]
    ends = zip(src.split(_EDGES), dst.split(_EDGES), strict=True)
    gap = torch.cat([(around[a] - around[b]).square().sum(dim=1) for a, b in ends])
    scale = gap.mean() if len(gap) else gap.new_ones(())
    return around, (-gap / scale.clamp_min(1e-12)).exp()


@functional_transform("join_macro_nodes")
class JoinMacroNodes(BaseTransform):
    """Join each virtual node to all cells of its slice, and to its other virtual nodes.

    What is left to do after ``MacroNodes(join=False)``; in a piece of a slice
    (:class:`SubSlices`), virtual nodes are joined to the piece's cells.

    Raises:
        ValueError: ``data`` has no virtual nodes, or they have edges already.
    """

    def forward(self, data: Data) -> Data:
        """Return ``data`` with the edges of its virtual nodes."""
        if "node_type" not in data or data.edge_index is None:
            raise ValueError("JoinMacroNodes needs virtual nodes; run MacroNodes(join=False) first")
        virtual = ~cell_mask(data)
        if virtual[data.edge_index].any():
            raise ValueError("the virtual nodes have edges already; join them once")
        edges = [data.edge_index]
        for cells in rows_by_slice(data):
            own = virtual
            if "slice_id" in data:
                own = virtual & (data.slice_id == data.slice_id[cells[0]])
            edges.append(_joined(cells, own.nonzero().view(-1)))
        edge_index = torch.cat(edges, dim=1)
        n = data.num_nodes
        data.edge_index = sort_edge_index(edge_index, num_nodes=n, sort_by_row=False)
        data.edge_attr = None
        return data


def _joined(cells: Tensor, virtual: Tensor) -> Tensor:
    """Edges between all cells and all virtual nodes, and among the virtual, both directions."""
    there = torch.cartesian_prod(cells, virtual).t()
    among = torch.cartesian_prod(virtual, virtual).t().reshape(2, -1)
    return torch.cat([there, there.flip(0), among[:, among[0] != among[1]]], dim=1)
