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
# Direction

Attention that depends on distances cannot see from which side a neighbour comes. With vector
channels, `SE2TransformerConv` can, and its output is still invariant to rotation. This tutorial
uses small graphs whose labels depend on direction only, and shows when vectors are needed.
"""

# %%
# %matplotlib inline
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn import TransformerConv

from stofm_geo.datasets import rotate_graphs, toy_stars
from stofm_geo.nn import SE2TransformerConv

# %% [markdown]
"""
## Two questions about a neighbourhood

Each graph of `toy_stars` is a cell with eight neighbours at distance 1, rotated at random.

- `direction`: one neighbour is a landmark (square). A quantity increases or decreases towards it.
  Both labels have the same values at the same distances, so only directions tell them apart.
- `chirality`: three kinds of neighbours follow one another clockwise or counterclockwise. A graph
  and its mirror image have the same distances between all nodes.

Similar questions about a tissue are: from which side does a signal come? Is this piece of tissue
its mirror image?
"""


# %%
def draw(ax, graph, kind, title):
    """Draw a star: the landmark has a red square, and colours show the features of neighbours."""
    for node in range(1, len(graph.pos)):
        ax.plot(*graph.pos[[0, node]].T, color="0.8", zorder=0)
    if kind == "direction":
        color = graph.x[1:, 2]
        ax.scatter(*graph.pos[1], marker="s", s=300, facecolors="none", edgecolors="tab:red")
    else:
        color = graph.x[1:, 1:] @ torch.tensor([1.0, 2.0, 3.0])
    ax.scatter(*graph.pos[0], color="0.2", s=60)
    ax.scatter(*graph.pos[1:].T, c=color, cmap="viridis", s=120, edgecolors="0.2")
    ax.set(title=title, aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
    ax.set_axis_off()


figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
for kind, pair in (("direction", axes[:2]), ("chirality", axes[2:])):
    for ax, graph in zip(pair, toy_stars(kind, 2, seed=1), strict=True):
        draw(ax, graph, kind, f"{kind}, label {graph.y.item()}")
plt.show()

# %% [markdown]
"""
## Train four layers

All layers are trained in the same network and for the same number of steps:

- `TransformerConv` sees no positions.
- `SE2TransformerConv` sees distances.
- With `vector_channels`, messages carry vectors that rotate with the positions. Lengths, inner
  products and cross products of vectors do not change by rotation, and are added to the features.
- With `reflections=True`, cross products are left out. The output is then also invariant to
  reflection.
"""

# %%
layers = {
    "TransformerConv": TransformerConv,
    "distances": SE2TransformerConv,
    "vectors, reflections=True": partial(SE2TransformerConv, vector_channels=4, reflections=True),
    "vectors": partial(SE2TransformerConv, vector_channels=4),
}


class Net(nn.Module):
    """Two layers, and a classifier of the central node."""

    def __init__(self, layer):
        super().__init__()
        self.first = layer(4, 8, heads=2)
        self.second = layer(16, 8, heads=2)
        self.out = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, batch):
        """Return the logits of each graph."""
        geometry = {"pos": batch.pos} if isinstance(self.first, SE2TransformerConv) else {}
        x = self.first(batch.x, batch.edge_index, **geometry).relu()
        x = self.second(x, batch.edge_index, **geometry).relu()
        return self.out(x[batch.ptr[:-1]])  # the first node of each graph is the centre


def train(layer, kind):
    """Train a network on 100 stars of a kind."""
    torch.manual_seed(0)
    batch = Batch.from_data_list(toy_stars(kind, 100, seed=0))
    net = Net(layer)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(70):
        optimizer.zero_grad()
        F.cross_entropy(net(batch), batch.y).backward()
        optimizer.step()
    return net.eval()


nets = {
    (name, kind): train(layer, kind)
    for name, layer in layers.items()
    for kind in ("direction", "chirality")
}

# %% [markdown]
"""
## Accuracy on other stars

Both labels are equally frequent, so 0.5 is chance.
"""


# %%
@torch.no_grad()
def accuracy(net, graphs):
    """Return the fraction of graphs with the right label."""
    batch = Batch.from_data_list(graphs)
    return (net(batch).argmax(dim=1) == batch.y).float().mean().item()


test = {kind: toy_stars(kind, 200, seed=1) for kind in ("direction", "chirality")}
table = pd.Series({key: accuracy(net, test[key[1]]) for key, net in nets.items()}, name="accuracy")
table.unstack().loc[list(layers), ["direction", "chirality"]].round(2)

# %% [markdown]
"""
Layers without vectors do not exceed chance, because their input is the same for both labels. More
data or more training would not help. With vectors, the direction is learned. Chirality also needs
the cross products.

This is not a question of accuracy alone. Choose by what you know about your data:
`reflections=True` if a tissue and its mirror image must give the same result, for example because
sections may have been turned over. The default if handedness may matter.

## Invariance to rotation

A common alternative is to give positions to the network as features. Such a network must learn all
rotations from data. Here, no prediction changes if the test graphs are rotated. The second number
is the largest change of a logit, which is rounding.
"""

# %%
for kind, graphs in test.items():
    net = nets["vectors", kind]
    rotated = rotate_graphs(graphs, seed=0)
    with torch.no_grad():
        change = net(Batch.from_data_list(rotated)) - net(Batch.from_data_list(graphs))
    print(f"{kind}: accuracy {accuracy(net, rotated):.2f}, change {change.abs().max():.0e}")

# %% [markdown]
"""
## Vectors as output

With `out_vectors=True`, a layer returns the vectors themselves, `[nodes, order, channel, 2]`. If
the positions rotate, vectors of order 1 rotate by the same angle. They can predict a direction,
such as a displacement or the axis of a tissue. The picture shows four vectors of the central node
of an untrained layer, for a star and for the same star rotated.
"""

# %%
torch.manual_seed(0)
conv = SE2TransformerConv(4, 8, heads=1, vector_channels=4, max_order=1, out_vectors=True)
star = toy_stars("chirality", 1, seed=1)[0]
figure, axes = plt.subplots(1, 2, figsize=(8, 4))
for ax, graph, title in zip(
    axes, (star, *rotate_graphs([star], seed=3)), ("a star", "rotated"), strict=True
):
    with torch.no_grad():
        _, vectors = conv(graph.x, graph.edge_index, pos=graph.pos)
    draw(ax, graph, "chirality", title)
    arrows = vectors[0, 0] / vectors[0, 0].norm(dim=1).max()
    ax.quiver(*torch.zeros(2, 4), *arrows.T, angles="xy", scale_units="xy", scale=1.2, zorder=3)
plt.show()

# %% [markdown]
"""
These graphs were made so that direction is all that matters. On real tissue, vectors have not
improved the tasks of the benchmark so far: see [Limitations](../limitations.md). In its task on
rotated images, they are far ahead of distances: see [Benchmarks](../benchmarks.md), and
`examples/superpixels.py` in the repository. `examples/particles.py` predicts displacements. Use
them if your question is about direction.

## Next

- [Vector features](../concepts/vectors.md): the equations, and how invariants are formed
- [Invariance](../concepts/invariance.md)
- [The layer in PyG](layer_in_pyg.py)
- [Use layers and transforms in PyG](../guides/pyg.md): vectors passed to e3nn
"""
