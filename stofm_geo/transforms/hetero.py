"""Conversion to a heterogeneous graph of cells and macro nodes."""

from __future__ import annotations

import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.data.datapipes import functional_transform

from stofm_geo._keys import NodeType
from stofm_geo.transforms._base import BatchGraphs, GraphTransform

_NAMES = {NodeType.CELL: "cell", NodeType.MACRO: "macro"}


@functional_transform("hetero_view")
class HeteroView(GraphTransform):
    """Convert a graph with virtual nodes (:class:`MacroNodes`) to ``HeteroData``.

    Node types are ``"cell"`` and ``"macro"``, edge types ``("cell", "to", "cell")``, ``("cell",
    "to", "macro")``, ``("macro", "to", "cell")`` and ``("macro", "to", "macro")``. CLS is left out.
    Node and edge attributes are split by type, in the same order; ``cluster`` of a cell becomes the
    index of its macro node in ``"macro"``, and only ``"macro"`` has ``cluster_size``. A batch
    becomes the ``Batch`` of its converted graphs.

    Raises:
        ValueError: ``data`` has no virtual nodes.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.transforms import HeteroView, MacroNodes, SpatialKNN
        >>> data = SpatialKNN()(from_anndata(datasets.toy_tissue(200, 30, seed=0)))
        >>> hetero = HeteroView()(MacroNodes(max_nodes=3)(data))
        >>> hetero["cell"].num_nodes, hetero["macro"].num_nodes
        (200, 3)
        >>> hetero["macro", "to", "cell"].num_edges
        600
    """

    uses_pos = False

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        if "node_type" not in data or data.edge_index is None:
            raise ValueError("HeteroView needs virtual nodes; run MacroNodes() first")

    def forward(self, data: Data) -> HeteroData:
        """Return the converted graph, or the batch of converted graphs."""
        self.check(data)
        if "batch" not in data:
            return self.transform_graph(data)
        return Batch.from_data_list(
            [self.transform_graph(graph) for graph in BatchGraphs(data).complete()]
        )

    def transform_graph(self, data: Data) -> HeteroData:
        """See :class:`GraphTransform`."""
        out = HeteroData()
        rows = {name: (data.node_type == code).nonzero().view(-1) for code, name in _NAMES.items()}
        local_index = torch.full((data.num_nodes,), -1, device=data.node_type.device)
        for name, nodes in rows.items():
            local_index[nodes] = torch.arange(len(nodes), device=nodes.device)
            out[name].num_nodes = len(nodes)
        src, dst = data.edge_index
        edges = {
            (source, "to", target): (
                (data.node_type[src] == code) & (data.node_type[dst] == other_code)
            )
            .nonzero()
            .view(-1)
            for code, source in _NAMES.items()
            for other_code, target in _NAMES.items()
        }
        for key, value in data:
            if key in ("node_type", "num_nodes"):
                continue
            if key == "cluster":
                out["cell"].cluster = local_index[value[rows["cell"]]]
            elif key == "cluster_size":
                out["macro"].cluster_size = value[rows["macro"]]
            elif key == "edge_index":
                for kind, edge_ids in edges.items():
                    out[kind].edge_index = local_index[value[:, edge_ids]]
            elif data.is_node_attr(key):
                for name, nodes in rows.items():
                    out[name][key] = value[nodes]
            elif data.is_edge_attr(key):
                for kind, edge_ids in edges.items():
                    out[kind][key] = value[edge_ids]
            else:
                out[key] = value
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
