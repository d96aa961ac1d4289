"""Training of a layer on graphs in the plane, with the same size and budget for all layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from stofm_geo.benchmark.geometry.networks import GraphNetwork, Sizes
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.trained import count
from stofm_geo.datasets import rotate_graphs

PARAMETERS = 60_000
STEPS, CHECKS = 2_000, 20
_TISSUE_STEPS = 400  # of a problem on few pieces of tissue
RATE, DECAY, WARM_UP = 3e-3, 1e-2, 0.15
_BATCH = 50
_WIDTH_STEP = 8  # widths are multiples of it, so that layers may have 8 heads


@dataclass(frozen=True)
class PlanarModel:
    """Model of problems on graphs in the plane: a :class:`GraphNetwork` of any layer.

    Networks have about 60 000 parameters, and are trained by AdamW for 2 000 steps of 50 graphs
    (400 steps of 4 pieces of tissue), with a learning rate that rises to 3e-3 and falls to 0. The
    weights with the lowest loss on the validation graphs, of 20 checks, are kept.

    Attributes:
        layer: See :class:`GraphNetwork`.
        coordinates: See :class:`GraphNetwork`.
        orders: See :class:`GraphNetwork`.
        zeros: See :class:`GraphNetwork`.
        rotate: Whether training graphs are rotated at random each time they are seen.
    """

    layer: Callable[[int, int], nn.Module]
    coordinates: bool = False
    orders: int = 1
    zeros: int = 0
    rotate: bool = False

    def __call__(self, problem: GraphProblem, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Return predictions and a record of the training."""
        first = problem.train[0]
        vectors = first.vectors.size(1) if "vectors" in first else 0
        sizes = Sizes(first.x.size(1), vectors, len(problem.names))

        def network(width: int) -> GraphNetwork:
            return GraphNetwork(self.layer, sizes, width, self.coordinates, self.orders, self.zeros)

        width = _width(network)
        torch.manual_seed(seed)
        net = network(width)
        start = time.process_time()  # of the processor: other work on the machine does not count
        loss, step = self._fit(net, problem, seed)
        seconds = time.process_time() - start
        start = time.process_time()
        predictions = [predict(net, graphs) for graphs in problem.test]
        rate = sum(map(len, problem.test)) / (time.process_time() - start)
        record: dict[str, Any] = {"parameters": count(net), "width": width, "step": step}
        record |= {"validation_loss": round(loss, 5), "training_cpu_seconds": round(seconds, 1)}
        return predictions, record | {"graphs_per_cpu_second": round(rate)}

    def _fit(self, net: GraphNetwork, problem: GraphProblem, seed: int) -> tuple[float, int]:
        """Train; return the lowest loss on the validation graphs, and its step."""
        steps, batch_size = (
            (_TISSUE_STEPS, 4) if "core_mask" in problem.train[0] else (STEPS, _BATCH)
        )
        optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=steps, pct_start=WARM_UP
        )
        best, best_step, kept = np.inf, 0, net.state_dict()
        for step, batch in enumerate(
            self._batches(problem.train, batch_size, steps, seed), start=1
        ):
            net.train()
            optimizer.zero_grad()
            loss_of(net(batch), batch).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % (steps // CHECKS) == 0:
                value = _validation_loss(net, problem.validation)
                if value < best:
                    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
                    best, best_step, kept = value, step, state
        if not best_step:
            raise ValueError("the loss is never finite; check that the layers are stable")
        net.load_state_dict(kept)
        return best, best_step

    def _batches(
        self, graphs: list[Data], batch_size: int, steps: int, seed: int
    ) -> Iterator[Batch]:
        """Yield batches of shuffled graphs, ``steps`` in all."""
        random, left = np.random.default_rng(seed), steps
        while left:
            order = random.permutation(len(graphs))
            for rows in np.array_split(order, -(-len(graphs) // batch_size))[:left]:
                chosen = [graphs[row] for row in rows]
                if self.rotate:
                    chosen = rotate_graphs(chosen, seed=int(random.integers(2**31)))
                yield Batch.from_data_list(chosen)
                left -= 1


def loss_of(out: Tensor, batch: Batch) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of vectors."""
    if batch.y.dim() == 1:
        return F.cross_entropy(out, batch.y)
    error = (out - batch.y).square().sum(dim=1)
    return error[batch.mask].mean() if "mask" in batch else error.mean()


@torch.no_grad()
def predict(net: GraphNetwork, graphs: list[Data]) -> np.ndarray:
    """Return classes ``[graphs]``, or vectors of all nodes ``[nodes, 2]``."""
    net.eval()
    out = torch.cat([net(batch) for batch in DataLoader(graphs, _BATCH)])
    return (out.argmax(dim=1) if net.outputs else out).numpy()


@torch.no_grad()
def _validation_loss(net: GraphNetwork, graphs: list[Data]) -> float:
    net.eval()
    batches = DataLoader(graphs, _BATCH)
    losses = [(float(loss_of(net(batch), batch)), batch.num_graphs) for batch in batches]
    values, weights = zip(*losses, strict=True)
    return float(np.average(values, weights=weights))


def _width(network: Callable[[int], nn.Module]) -> int:
    """Return the width whose network has the number of parameters nearest to the target."""
    with torch.random.fork_rng():
        widths = range(_WIDTH_STEP, 200, _WIDTH_STEP)
        return min(widths, key=lambda width: abs(count(network(width)) - PARAMETERS))
