"""A layer of one's own beside others: python examples/benchmark_own_layer.py [FOLDER OF RESULTS]"""

import sys

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from stofm_geo import benchmark


class Nearness(MessagePassing):
    """Neighbours count less the farther they are, how fast is learned for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__(aggr="mean")
        self.own, self.near = nn.Linear(width, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """``[N, width]``, from features, edges and positions in cell spacings."""
        return self.own(x) + self.propagate(edge_index, x=self.near(x), pos=pos)

    def message(self, x_j: Tensor, pos_i: Tensor, pos_j: Tensor) -> Tensor:
        """Of each edge."""
        distance = (pos_i - pos_j).norm(dim=1, keepdim=True)
        return x_j * torch.exp(-self.rate.abs() * distance)


benchmark.register_model("Nearness", layer=Nearness)

if __name__ == "__main__":  # the cells run in processes of their own, which import this file
    folder = sys.argv[1] if len(sys.argv) > 1 else "results"
    models = ["PCA", "MLP", "GCN", "Nearness"]
    benchmark.run(folder, tasks=["domains"], models=models, seeds=1, jobs=2)
    print(benchmark.report(folder))
