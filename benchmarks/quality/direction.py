"""What directions add: labels that no distance tells, learnt by layers with and without vectors.

``python -m benchmarks.quality.direction -o benchmarks/results/direction.json``: the two tasks of
``stofm_geo.datasets.toy_stars``, two layers each, 400 graphs to learn from and 400 others to be
tested on, 5 seeds. A minute or two.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATv2Conv, TransformerConv

from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.datasets import toy_stars
from stofm_geo.nn import SE2TransformerConv

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "TransformerConv": TransformerConv,
    "GATv2Conv": GATv2Conv,
    "SE2TransformerConv, distances": SE2TransformerConv,
    "SE2TransformerConv, vectors, E(2)": partial(
        SE2TransformerConv, vector_channels=4, reflections=True
    ),
    "SE2TransformerConv, vectors": partial(SE2TransformerConv, vector_channels=4),
}


class Net(nn.Module):
    """Two layers, and a small network on the centre."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.first = layer(4, 8, heads=2)
        self.second = layer(16, 8, heads=2)
        self.out = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, data: Data) -> Tensor:
        """Logits of each graph's centre, its first node."""
        sees = {"pos": data.pos} if isinstance(self.first, SE2TransformerConv) else {}
        x = self.first(data.x, data.edge_index, **sees).relu()
        x = self.second(x, data.edge_index, **sees).relu()
        return self.out(x[data.ptr[:-1]])


def accuracy(kind: str, layer: Callable[..., nn.Module], seed: int) -> float:
    torch.manual_seed(seed)
    train, test = (
        Batch.from_data_list(toy_stars(kind, 400, seed=draw)) for draw in (seed, 1000 + seed)
    )
    net = Net(layer)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(train), train.y).backward()
        optimizer.step()
    return float((net.eval()(test).argmax(dim=1) == test.y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for kind in ("direction", "chirality"):
        for name, layer in LAYERS.items():
            found = [accuracy(kind, layer, seed) for seed in range(5)]
            rows.append({"task": kind, "layer": name, "accuracy": found})
            print(f"{kind:10} {name:36} {statistics.mean(found):.3f}  {found}", flush=True)
    write_result({"environment": environment(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
