"""Macro scale of a slice: virtual nodes for its clusters, and a CLS node."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.utils import scatter, sort_edge_index

from stofm_geo._keys import NodeType
from stofm_geo._validation import check_positive, preview
from stofm_geo.transforms._base import GraphTransform
from stofm_geo.transforms._slices import (
    cell_mask,
    drop_edge_attributes,
    edges_by_slice,
    rows_by_slice,
)
from stofm_geo.transforms._validation import check_attribute
from stofm_geo.transforms.leiden import leiden

# Leading columns of x used for clustering; principal components are sorted by variance.
_COLUMNS = 20
# Edges processed at once.
_EDGES = 2**18


@functional_transform("macro_nodes")
class MacroNodes(GraphTransform):
    """Add to each slice a CLS node and one macro node per cluster, joined to all its cells.

    Clusters are Leiden communities (Traag et al. 2019) of the neighbour graph, with edges weighted
    by the similarity of the neighbourhoods of their ends. Communities beyond ``max_nodes`` are
    merged by the similarity of their mean features (Ward). Clusters depend on features and the
    graph only, not on coordinates, so they are invariant to rotation. A macro node has the mean
    position and the mean feature of its cells; CLS has the mean position of the slice and feature
    0. Integer features are converted to floating point. A graph without cells gets no nodes.

    The new nodes come after the cells, the CLS of a slice before its macro nodes. Sets
    ``data.node_type`` (0: cell, 1: CLS, 2: macro node), ``data.cluster`` (of a cell, the index of
    its macro node in its own graph, else -1; in a batch, add ``ptr[batch]`` to it) and
    ``data.cluster_size`` (of a macro node, the number of its cells, else 0), and extends ``x``,
    ``pos``, ``edge_index`` and, where present, ``n_id`` (by -1) and ``slice_id``. Other attributes
    of nodes, as ``y`` and masks, are extended by NaN, -1 or ``False`` (not indices of nodes, as
    ``parent_index``); attributes of edges are removed, since edges are added: compute them
    afterwards. Virtual nodes are also joined to each other.

    Args:
        resolution: Resolution of the Leiden modularity; higher values give more clusters (default
            1).
        max_nodes: Maximum number of macro nodes of a slice, without CLS (default 16).
        seed: Random seed of the Leiden algorithm (default 0).
        join: Whether to add the edges of the new nodes, two for each cell and virtual node
            (default). They need much memory for a large slice: cut it first, and join the
            sub-slices (:class:`JoinMacroNodes`).

    Raises:
        ValueError: ``data`` has no ``x`` or ``edge_index``, or already has virtual nodes.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.transforms import MacroNodes, SpatialKNN
        >>> data = SpatialKNN()(from_anndata(datasets.toy_tissue(200, 30, seed=0)))
        >>> data = MacroNodes(max_nodes=3)(data)
        >>> data.node_type.bincount().tolist()  # cells, CLS, macro nodes
        [200, 1, 3]
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

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        name = type(self).__name__
        check_attribute(data, "edge_index", name, "run SpatialKNN() first")
        check_attribute(data, "x", name, "clusters are computed from features")
        if "node_type" in data:
            raise ValueError("data already has virtual nodes; run MacroNodes once")
        if data.x.dim() != 2:
            raise ValueError(f"data.x must be [num_nodes, F]; found {list(data.x.shape)}")
        if not data.x.is_floating_point():
            data.x = data.x.to(torch.get_default_dtype())
        bad = (~data.x.isfinite().all(dim=1)).nonzero().view(-1)
        if len(bad):
            raise ValueError(
                f"data.x is NaN or infinite for {len(bad)} of {len(data.x)} cells "
                f"(node {preview(bad[:4].tolist())}), and clusters are computed from it; replace "
                "these features, data.x.nan_to_num(), or drop the cells"
            )

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        n, device = data.num_nodes, data.pos.device
        cluster = torch.full((n,), -1, device=device)
        x, pos = [data.x], [data.pos]
        node_type, slice_id = [torch.full((n,), NodeType.CELL, device=device)], []
        total = n
        slices = rows_by_slice(data)
        for rows, edge_index in zip(slices, _edges_of(data, slices), strict=True):
            label = self.cluster(data.x[rows].cpu(), edge_index.cpu()).to(device)
            count = int(label.max()) + 1
            cluster[rows] = label + total + 1
            x += [torch.zeros_like(data.x[:1]), _means(data.x[rows], label)]
            pos += [data.pos[rows].mean(dim=0, keepdim=True), _means(data.pos[rows], label)]
            node_type.append(torch.tensor([NodeType.CLS] + [NodeType.MACRO] * count, device=device))
            if "slice_id" in data:
                slice_id.append(data.slice_id[rows[:1]].expand(1 + count))
            total += 1 + count
        data.x, data.pos, data.node_type = torch.cat(x), torch.cat(pos), torch.cat(node_type)
        if "num_nodes" in data:
            data.num_nodes = total
        missing = torch.full((total - n,), -1, device=device)
        data.cluster = torch.cat([cluster, missing])
        data.cluster_size = torch.bincount(cluster[cluster >= 0], minlength=total)
        if "n_id" in data:
            data.n_id = torch.cat([data.n_id, missing])
        if "slice_id" in data:
            data.slice_id = torch.cat([data.slice_id, *slice_id])
        return JoinMacroNodes()(data) if self.join else data

    def cluster(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the cluster index of each cell of one slice, ``[n]``; tensors are on the CPU."""
        n = len(x)
        src, dst = edge_index
        smoothed, weight = _edge_similarity(x[:, :_COLUMNS].double(), src, dst)
        first_of_pair = src < dst
        label = leiden(
            n,
            edge_index[:, first_of_pair].t().numpy(),
            weight[first_of_pair].numpy(),
            resolution=self.resolution,
            seed=self.seed,
        )
        if label.max() >= self.max_nodes:
            label = self._merge(smoothed, torch.from_numpy(label))[label]
        return torch.from_numpy(np.unique(label, return_inverse=True)[1]).view(-1)

    def _merge(self, smoothed: Tensor, label: Tensor) -> np.ndarray:
        """Return the merged cluster of each community."""
        mean = scatter(smoothed, label, reduce="mean").numpy()
        return AgglomerativeClustering(n_clusters=self.max_nodes).fit_predict(mean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(resolution={self.resolution}, max_nodes={self.max_nodes})"


def _edges_of(data: Data, slices: list[Tensor]) -> list[Tensor]:
    """Return the edges of each slice, with node indices within the slice."""
    if len(slices) == 1:
        return [data.edge_index]
    local_index = torch.empty(data.num_nodes, dtype=torch.long, device=data.edge_index.device)
    for rows in slices:
        local_index[rows] = torch.arange(len(rows), device=local_index.device)
    return [local_index[data.edge_index[:, edges]] for edges in edges_by_slice(data, slices)]


def _means(values: Tensor, label: Tensor) -> Tensor:
    """Return the mean of the values of each label; in half precision, sums would overflow."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return scatter(wide, label, reduce="mean").to(values.dtype)


def _edge_similarity(x: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """Return each cell's smoothed features ``[n, F]``, and the similarity along edges ``[E]``."""
    # The mean over a cell and its neighbours reduces counting noise. A sparse matrix and blocks of
    # edges avoid a tensor of edges x features.
    adjacency = sp.csr_matrix(
        (np.ones(len(src)), (dst.numpy(), src.numpy())), shape=(len(x), len(x))
    )
    count = torch.bincount(dst, minlength=len(x)) + 1
    smoothed = (torch.from_numpy(adjacency @ x.numpy()) + x) / count[:, None]
    ends = zip(src.split(_EDGES), dst.split(_EDGES), strict=True)
    distance = torch.cat([(smoothed[a] - smoothed[b]).square().sum(dim=1) for a, b in ends])
    scale = distance.mean() if len(distance) else distance.new_ones(())
    return smoothed, (-distance / scale.clamp_min(1e-12)).exp()


@functional_transform("join_macro_nodes")
class JoinMacroNodes(GraphTransform):
    """Join each virtual node to all cells of its slice, and to its other virtual nodes.

    This completes ``MacroNodes(join=False)``. In a sub-slice (:class:`SubSlices`), virtual nodes
    are joined to its cells.

    Raises:
        ValueError: ``data`` has no virtual nodes, or they already have edges.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.transforms import JoinMacroNodes, MacroNodes, SpatialKNN
        >>> data = SpatialKNN()(from_anndata(datasets.toy_tissue(200, 30, seed=0)))
        >>> data = MacroNodes(max_nodes=3, join=False)(data)
        >>> JoinMacroNodes()(data).num_edges - data.num_edges  # 2 * 200 * 4 + 4 * 3
        1612
    """

    uses_pos = False

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        if "node_type" not in data or data.edge_index is None:
            raise ValueError("JoinMacroNodes needs virtual nodes; run MacroNodes(join=False) first")
        if (~cell_mask(data))[data.edge_index].any():
            raise ValueError("the virtual nodes already have edges; join them once")

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        n, cells = data.num_nodes, cell_mask(data)
        edges = [data.edge_index]
        for rows in rows_by_slice(data, torch.arange(n, device=cells.device)):
            edges.append(_macro_edges(rows[cells[rows]], rows[~cells[rows]]))
        drop_edge_attributes(data)
        edge_index = torch.cat(edges, dim=1)
        data.edge_index = sort_edge_index(edge_index, num_nodes=n, sort_by_row=False)
        return data


def _macro_edges(cells: Tensor, virtual: Tensor) -> Tensor:
    """Return edges between all cells and all virtual nodes, and among these, in both directions."""
    to_virtual = torch.cartesian_prod(cells, virtual).t()
    among = torch.cartesian_prod(virtual, virtual).t().reshape(2, -1)
    return torch.cat([to_virtual, to_virtual.flip(0), among[:, among[0] != among[1]]], dim=1)
