"""For graph-learning people: SE2TransformerConv with the rest of PyG, e3nn and PyTorch.

``python examples/compose_with_pyg.py [SLICE.h5ad]``; without a file, a toy tissue.
"""

import sys

import anndata
import torch
from e3nn import o3
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.loader import ClusterData, ClusterLoader, NeighborLoader
from torch_geometric.nn import (
    GATv2Conv,
    GPSConv,
    HeteroConv,
    JumpingKnowledge,
    Sequential,
    to_hetero,
)
from torch_geometric.transforms import Compose

import stofm_geo
import stofm_geo.transforms as T
from stofm_geo.nn import SE2TransformerConv, to_irreps


def show(what: str, out: Tensor) -> None:
    print(f"{what:42}{list(out.shape)}, finite: {bool(out.isfinite().all())}")


class Net(nn.Module):
    """Two layers, for the sections below."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SE2TransformerConv(-1, 8, heads=4, vector_channels=2)
        self.second = SE2TransformerConv(-1, 3, heads=1)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """Three numbers a node."""
        return self.second(self.first(x, edge_index, pos=pos).relu(), edge_index, pos=pos)


def main() -> None:
    adata = anndata.read_h5ad(sys.argv[1]) if sys.argv[1:] else stofm_geo.datasets.toy_tissue(800)
    data = Compose([T.NormalizePositions(), T.SpatialKNN(k=8)])(stofm_geo.from_anndata(adata))
    data.pos = data.pos.float()
    x, edge_index, pos, size = data.x, data.edge_index, data.pos, data.num_features

    # One layer, as any of PyG's; with attention weights; on an EdgeIndex.
    conv = SE2TransformerConv(size, 8, heads=4, vector_channels=2)
    show("alone", conv(x, edge_index, pos=pos))
    out, (_, alpha) = conv(x, edge_index, pos=pos, return_attention_weights=True)
    show("attention weights", alpha)
    show("on an EdgeIndex", conv(x, EdgeIndex(edge_index).sort_by("col")[0], pos=pos))

    # In GPS, the recipe of local attention beside global attention.
    gps = GPSConv(32, SE2TransformerConv(32, 8, heads=4), heads=4)
    show("in GPSConv", gps(nn.Linear(size, 32)(x), edge_index, pos=pos))

    # In a Sequential after a GATv2Conv, vectors handed from layer to layer, and jumping knowledge.
    model = Sequential(
        "x, edge_index, edge_attr, pos",
        [
            (GATv2Conv(size, 32), "x, edge_index -> x0"),
            (SE2TransformerConv(32, 8, 4, vector_channels=2, out_vectors=True),
             "x0, edge_index, edge_attr, pos -> x1, v"),
            (SE2TransformerConv(32, 8, 4, vector_channels=2, in_vector_channels=8),
             "x1, edge_index, edge_attr, pos, v -> x2"),
            (lambda *all: list(all), "x0, x1, x2 -> xs"),
            (JumpingKnowledge("cat"), "xs -> x"),
        ],
    )  # fmt: skip
    show("Sequential, GATv2Conv, JumpingKnowledge", model(x, edge_index, None, pos))

    # Before an e3nn layer: vectors of order 1 are 1o with z = 0, those of order 2 lie in 2e.
    turning = SE2TransformerConv(size, 8, heads=4, vector_channels=2, out_vectors=True)
    linear = o3.Linear(turning.irreps_out, "4x0e + 2x1o")
    show(f"{turning.irreps_out} to 4x0e+2x1o", linear(to_irreps(*turning(x, edge_index, pos=pos))))

    # Cells and virtual cells as two node types, by HeteroConv and by to_hetero.
    hetero = Compose([T.MacroNodes(max_nodes=8), T.HeteroView()])(data)
    layers = {kind: SE2TransformerConv((-1, -1), 8, heads=4) for kind in hetero.edge_types}
    out = HeteroConv(layers)(hetero.x_dict, hetero.edge_index_dict, pos_dict=hetero.pos_dict)
    show("in HeteroConv, macro nodes", out["macro"])

    out = to_hetero(Net(), hetero.metadata())(
        hetero.x_dict, hetero.edge_index_dict, hetero.pos_dict
    )
    show("by to_hetero, cells", out["cell"])

    # Mini-batches of a tissue that is too large for one step. Sub-slices are compact and have what
    # the layers see around them; PyG's own loaders need a package with a kernel.
    net = Net()
    net(x, edge_index, pos)  # sizes are read off the first input
    for subslice in T.SubSlices(num_cells=400, halo=2)(data):
        show(
            "on a sub-slice", net(subslice.x, subslice.edge_index, subslice.pos)[subslice.core_mask]
        )
    try:
        batch = next(iter(NeighborLoader(data, num_neighbors=[8, 8], batch_size=100)))
        show("from NeighborLoader", net(batch.x, batch.edge_index, batch.pos)[: batch.batch_size])
        batch = next(iter(ClusterLoader(ClusterData(data, 8, log=False), batch_size=2)))
        show("from ClusterLoader", net(batch.x, batch.edge_index, batch.pos))
    except ImportError as error:
        print(error)

    # Which neighbours decided? The layer takes part in PyG's explanations.
    explainer = Explainer(
        net,
        GNNExplainer(epochs=20),
        explanation_type="model",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    show("explained: edge mask", explainer(x, edge_index, pos=pos, index=0).edge_mask)

    # PyTorch's own: bf16 autocast, activation checkpointing, export, compilation without a break.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        show("in bfloat16", net(x, edge_index, pos))
    out = checkpoint(net, x, edge_index, pos, use_reentrant=False)
    out.sum().backward()
    show("with checkpointing", out)
    N, E = torch.export.Dim("N", min=2), torch.export.Dim("E", min=2)
    program = torch.export.export(
        net, (x, edge_index, pos), dynamic_shapes=({0: N}, {1: E}, {0: N})
    )
    show("exported", program.module()(x[:50], edge_index[:, (edge_index < 50).all(0)], pos[:50]))
    # The default backend is faster; on a CPU it needs a C++ compiler.
    compiled = torch.compile(net, backend="aot_eager", dynamic=True, fullgraph=True)
    show("compiled", compiled(x, edge_index, pos))


if __name__ == "__main__":  # PyG's Sequential imports the file it is called in
    main()
