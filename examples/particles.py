"""Charged particles, some in a magnetic field: velocities in, displacements out."""

import torch
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from stofm_geo.datasets import charged_particles, rotate_graphs
from stofm_geo.nn import SE2TransformerConv

train, test = (charged_particles(n, drift=0.5, seed=n) for n in (600, 200))
torch.manual_seed(0)
embed, weigh = torch.nn.Linear(2, 32), torch.nn.Linear(32, 16)
options = {"heads": 4, "vector_channels": 4, "max_order": 1, "out_vectors": True}
convs = [SE2TransformerConv(32, 8, in_vector_channels=n, **options) for n in (1, 16, 16)]
net = torch.nn.ModuleList([embed, weigh, *convs])
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)


def displacement(data):
    x, vectors = embed(data.x), data.vectors[:, None]  # [N, orders, channels, 2]
    for conv in convs:
        update, vectors = conv(x, data.edge_index, pos=data.pos, vectors=vectors)
        x = x + update.relu()
    # Features do not change by rotation, vectors rotate: so does the sum of weighted vectors.
    return (weigh(x)[:, :, None] * vectors[:, 0]).sum(dim=1)


for _epoch in range(10):
    for batch in DataLoader(train, batch_size=25, shuffle=True):
        optimizer.zero_grad()
        (displacement(batch) - batch.y).square().mean().backward()
        optimizer.step()
for name, given in (("as simulated", test), ("rotated", rotate_graphs(test, seed=0))):
    batch = Batch.from_data_list(given)
    error = (displacement(batch) - batch.y).square().mean() / batch.y.square().mean()
    print(f"{name}: {error.item():.3f} of the squared error of no movement")
