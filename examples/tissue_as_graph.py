"""For graph-learning people: a slice as PyG ``Data``, its macro nodes, any PyG layer on top.

``python examples/tissue_as_graph.py [SLICE.h5ad]``; without a file, a toy tissue.
"""

import sys

import anndata
import torch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GATv2Conv
from torch_geometric.transforms import Compose

import stofm_geo
import stofm_geo.transforms as T
from stofm_geo.nn import SE2Transformer

adata = anndata.read_h5ad(sys.argv[1]) if sys.argv[1:] else stofm_geo.datasets.toy_tissue()
data = stofm_geo.from_anndata(adata)  # x: principal components, pos: as in the file
print(data)

subslices = Compose(
    [
        T.NormalizePositions(),  # one unit is one cell spacing, however the slice lies
        T.SpatialKNN(k=12),  # ties kept: turning a lattice changes no edge
        T.MacroNodes(max_nodes=16),  # Leiden clusters and CLS as virtual nodes
        T.SubSlices(num_cells=500, halo=1),  # each cell is core in exactly one sub-slice
    ]
)(data)
batch = next(iter(DataLoader(subslices, batch_size=4)))
print(batch)

first = GATv2Conv(data.num_features, 64)
# Attention over edges, biased by their length; 8 vectors a node, which turn with the tissue.
encoder = SE2Transformer(64, num_layers=2, vector_channels=8, out_vectors=True)
with torch.no_grad():
    x = first(batch.x, batch.edge_index)
    x, vectors, pair = encoder(x, batch.edge_index, batch.pos)
print("nodes", tuple(x.shape), "vectors", tuple(vectors.shape), "edges", tuple(pair.shape))
