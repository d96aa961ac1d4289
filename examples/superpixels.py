"""Digits (of MNIST in the FOLDER given, or of scikit-learn), learned upright, tested rotated."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

from stofm_geo.datasets import read_mnist, rotate_graphs, small_digits, superpixel_graphs
from stofm_geo.nn import SE2Transformer

torch.manual_seed(0)
files = [Path(*sys.argv[1:2], f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1")]
images, labels = read_mnist(*files) if all(file.exists() for file in files) else small_digits()
graphs = superpixel_graphs(images[:1500], labels[:1500])
train, test = graphs[:1200], graphs[1200:]

# Directions enter by vectors, which rotate with the image: the logits do not change.
embed, classify = torch.nn.Linear(1, 32), torch.nn.Linear(32, 10)
layers = SE2Transformer(32, num_layers=3, heads=4, vector_channels=16, dropout=0.0)
weights = [*embed.parameters(), *layers.parameters(), *classify.parameters()]
optimizer = torch.optim.Adam(weights, lr=3e-3)


def logits(batch):
    x = layers(embed(batch.x), batch.edge_index, batch.pos).x
    return classify(global_mean_pool(x, batch.batch))


for _epoch in range(6):
    for batch in DataLoader(train, batch_size=50, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(logits(batch), batch.y).backward()
        optimizer.step()
for name, given in (("upright", test), ("rotated", rotate_graphs(test, seed=0))):
    batch = Batch.from_data_list(given)
    print(f"{name}: accuracy {(logits(batch).argmax(dim=1) == batch.y).float().mean():.3f}")
