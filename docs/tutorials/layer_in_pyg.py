# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# The layer in PyG

`SE2TransformerConv` is a PyG layer: attention over edges that also depends on the distances between
nodes. This tutorial uses it without the rest of the library's model. You turn a slice into a PyG
graph, replace `TransformerConv` by the layer, train a node classifier, and check that its output is
invariant to rotation.
"""

# %%
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import TransformerConv
from torch_geometric.transforms import Compose

import stofm_geo
import stofm_geo.transforms as T
from stofm_geo.nn import GaussianRadial, SE2TransformerConv

# %% [markdown]
"""
## A slice as a graph

`from_anndata` makes a `Data` object: a node per cell, with principal components of the counts in
`x` and positions in `pos`. The transforms are PyG transforms and return a new object.

`NormalizePositions` divides positions by the cell spacing, so that learned functions of distance
mean the same on every slice. `SpatialKNN` adds edges. For your own slice, use
`stofm_geo.read("SLICE.h5ad")`. A graph that squidpy has made can be reused with
`from_anndata(adata, neighbors_key="spatial")`.
"""

# %%
adata = stofm_geo.datasets.toy_tissue(n_cells=1500, seed=0)
prepare = Compose([T.NormalizePositions(), T.SpatialKNN(k=12)])
data = prepare(stofm_geo.from_anndata(adata))
print(data)

# %% [markdown]
"""
## A replacement for TransformerConv

The layer takes the arguments of `TransformerConv` in the same order. With `radial=None`, it does
not use distances, has the same state dict, and computes the same function. Weights of a trained
network can therefore be kept.
"""

# %%
torch.manual_seed(0)
old = TransformerConv(data.num_features, 8, heads=4)
new = SE2TransformerConv(data.num_features, 8, heads=4, radial=None)
new.load_state_dict(old.state_dict())
with torch.no_grad():
    difference = old(data.x, data.edge_index) - new(data.x, data.edge_index)
print(f"largest difference: {difference.abs().max():.1e}")

# %% [markdown]
"""
By default, a radial function adds a bias to the attention logits that depends on the length of the
edge. The layer then takes `pos` as well. The layer works in `Sequential`, `GPSConv`, `HeteroConv`,
`to_hetero`, explainers, `torch.compile` and `torch.export`, too ([Use layers and transforms in
PyG](../guides/pyg.md)).

## A node classifier

The task is to predict the region of each cell. A third of the tissue is held out for the test.
`SubSlices` cuts the slice into compact blocks, and whole blocks are held out. With random cells,
the neighbours of a test cell would be in the training set and would reveal its region.
"""

# %%
region = adata.obs["region"].cat
label = torch.tensor(region.codes.to_numpy(), dtype=torch.long)
blocks = T.SubSlices(num_cells=100, halo=0)(data)
test = torch.zeros(data.num_nodes, dtype=torch.bool)
for block in blocks[::3]:
    test[block.n_id] = True
print(f"{len(blocks)} blocks, {int(test.sum())} of {len(test)} cells are held out")

# %% [markdown]
"""
The network below takes any layer with this signature. Training is an ordinary PyTorch loop.
"""


# %%
class Net(nn.Module):
    """Two layers and a linear classifier."""

    def __init__(self, layer):
        super().__init__()
        self.first = layer(data.num_features, 8, heads=4)
        self.second = layer(32, 8, heads=4)
        self.out = nn.Linear(32, len(region.categories))

    def forward(self, x, edge_index, **geometry):
        """Return logits ``[N, classes]``."""
        for layer in (self.first, self.second):
            x = F.dropout(layer(x, edge_index, **geometry).relu(), 0.3, self.training)
        return self.out(x)


def train(layer, geometry, steps=60):
    """Train a network on the cells that are not held out."""
    torch.manual_seed(0)
    net = Net(layer)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = net(data.x, data.edge_index, **geometry)
        F.cross_entropy(logits[~test], label[~test]).backward()
        optimizer.step()
    return net.eval()


near = partial(GaussianRadial, num_gaussians=8, max_distance=5.0)  # in cell spacings
nets = {
    "TransformerConv": (train(TransformerConv, {}), {}),
    "SE2TransformerConv": (
        train(partial(SE2TransformerConv, radial=near), {"pos": data.pos}),
        {"pos": data.pos},
    ),
}

# %% [markdown]
"""
## Invariance

The output must not depend on how the slice lies under the microscope. `RandomSE2` rotates and
translates all positions. The prediction of the trained network does not change, up to rounding.
"""

# %%
net, _ = nets["SE2TransformerConv"]
moved = T.RandomSE2()(data)
with torch.no_grad():
    before = net(data.x, data.edge_index, pos=data.pos)
    after = net(data.x, data.edge_index, pos=moved.pos)
print(f"largest change of a position: {(moved.pos - data.pos).abs().max():.1f}")
print(f"largest change of a logit:    {(after - before).abs().max():.1e}")

# %% [markdown]
"""
## Mini-batches

A large slice does not fit into one step. Sub-slices with a halo of two edges contain all that two
layers see around their core cells. So the predictions for core cells are the same as on the whole
slice, and each cell is core in exactly one sub-slice. Sub-slices are `Data` objects for PyG's
`DataLoader`.
"""

# %%
batched = torch.empty_like(before)
loader = DataLoader(T.SubSlices(num_cells=400, halo=2)(data), batch_size=2)
for batch in loader:
    with torch.no_grad():
        logits = net(batch.x, batch.edge_index, pos=batch.pos)
    batched[batch.n_id[batch.core_mask]] = logits[batch.core_mask]
print(f"largest difference to the whole slice: {(batched - before).abs().max():.1e}")

# %% [markdown]
"""
## Compare the layers

The table has the accuracy on the held-out blocks.
"""

# %%
rows = {}
for name, (net, geometry) in nets.items():
    with torch.no_grad():
        predicted = net(data.x, data.edge_index, **geometry).argmax(dim=1)
    rows[name] = {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "accuracy": (predicted == label)[test].float().mean().item(),
    }
pd.DataFrame.from_dict(rows, orient="index").round(3)

# %% [markdown]
"""
Both layers solve this task, and one seed on one split cannot rank them. On real slices,
[Benchmarks](../benchmarks.md) compares them on several tasks with splits that do not leak, and
[Limitations](../limitations.md) says where distances do not help. Use the layer where geometry
carries information, and measure it.

## Next

- [Direction](direction.py): vector channels, which also see from which side a neighbour comes
- [Your layer in the benchmark](benchmark_layer.py)
- [Use layers and transforms in PyG](../guides/pyg.md)
- [Coming from PyG's TransformerConv](../coming-from/transformer-conv.md)
"""
