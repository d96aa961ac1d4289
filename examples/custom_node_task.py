"""A node classification of your own: regions of a tissue, on parts of it that were held out.

``python examples/custom_node_task.py [SLICE.h5ad]``; without a file, osmFISH if it lies in
``../shared/data``, else a toy tissue. Three layers of equal size, the same net around them, 5
seeds; a third of the tissue is held out, in contiguous blocks of about 200 cells, not in random
cells.
"""

import sys
from functools import partial
from pathlib import Path

import anndata
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch_geometric.nn import GATv2Conv, TransformerConv

import stofm_geo
import stofm_geo.transforms as T
from stofm_geo.nn import GaussianRadial, SE2TransformerConv

osmfish = Path(__file__).parents[2] / "shared" / "data" / "osmfish_sscortex.h5ad"
file = sys.argv[1] if sys.argv[1:] else osmfish if osmfish.exists() else None
adata = anndata.read_h5ad(file) if file else stofm_geo.datasets.toy_tissue()

# --- your task, from here ---
data = T.SpatialKNN(k=12)(T.NormalizePositions()(stofm_geo.from_anndata(adata)))
label = torch.tensor(adata.obs["region"].astype("category").cat.codes.to_numpy()).long()
classes = int(label.max()) + 1
block = torch.empty(data.num_nodes, dtype=torch.long)
for number, subslice in enumerate(T.SubSlices(num_cells=200, halo=0)(data)):
    block[subslice.n_id] = number


class Net(nn.Module):
    """Two layers and a classifier."""

    def __init__(self, layer, channels):
        super().__init__()
        self.first = layer(data.num_features, channels, heads=4)
        self.second = layer(4 * channels, channels, heads=4)
        self.out = nn.Linear(4 * channels, classes)

    def forward(self, x, edge_index, **where):
        """Logits ``[N, classes]``."""
        for layer in (self.first, self.second):
            x = F.dropout(layer(x, edge_index, **where).relu(), 0.3, self.training)
        return self.out(x)


def run(layer, channels, seed, **where):
    torch.manual_seed(seed)
    count = int(block.max()) + 1
    test = torch.isin(block, torch.randperm(count)[: max(count // 3, 1)])
    net = Net(layer, channels)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(data.x, data.edge_index, **where)[~test], label[~test]).backward()
        optimizer.step()
    found = net.eval()(data.x, data.edge_index, **where)[test].argmax(dim=1)
    return accuracy_score(label[test], found), f1_score(label[test], found, average="macro")


# --- to here ---
near = partial(GaussianRadial, num_gaussians=8, max_distance=5.0)  # in cell spacings
print(f"{'layer':20}{'parameters':>12}{'accuracy':>18}{'macro-F1':>18}")
for name, layer, channels, where in (
    ("GATv2Conv", partial(GATv2Conv, residual=True), 12, {}),
    ("TransformerConv", TransformerConv, 10, {}),
    ("SE2TransformerConv", partial(SE2TransformerConv, radial=near), 10, {"pos": data.pos}),
):
    scores = torch.tensor([run(layer, channels, seed, **where) for seed in range(5)])
    size = sum(parameter.numel() for parameter in Net(layer, channels).parameters())
    mean, std = scores.mean(dim=0), scores.std(dim=0)
    cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, std, strict=True)]
    print(f"{name:20}{size:12}{cells[0]:>18}{cells[1]:>18}", flush=True)
