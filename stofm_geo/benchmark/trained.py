"""Training of any graph layer on any task, with the same size, budget and tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.benchmark.graphs import COMPONENTS, Graphs, graphs
from stofm_geo.benchmark.layers import HEADS
from stofm_geo.benchmark.molecule_models import layers
from stofm_geo.benchmark.problems import Problem
from stofm_geo.tasks.labels import balanced

PARAMETERS = 300_000  # as in the Transformer of SToFM
RATES = (3e-3, 1e-3)
STEPS, CHECK, PATIENCE = 120, 10, 40
_MOLECULE_STEPS = 5  # times as many to predict molecules, as the library's own model has
_DECAY, _MASK_RATIO = 1e-2, 0.3


class Net(nn.Module):
    """Network of an input layer, a body of graph layers and an output layer.

    Args:
        body: Function from a width to the graph layers.
        sizes: Numbers of features and outputs.
        width: Width of the body.
    """

    def __init__(
        self, body: Callable[[int], nn.Module], sizes: tuple[int, int], width: int
    ) -> None:
        super().__init__()
        self.first = nn.Linear(sizes[0], width)
        self.token = nn.Parameter(torch.zeros(width))  # of masked nodes
        self.body = body(width)
        self.out = nn.Linear(width, sizes[1])

    def forward(self, subslice: Data, masked: Tensor | None = None) -> Tensor:
        """Return outputs ``[core cells, outputs]``, with features of ``masked`` nodes hidden."""
        x = self.first(subslice.x)
        if masked is not None:
            x = torch.where(masked[:, None], self.token, x)
        x = self.body(x, subslice.edge_index, subslice.pos)
        return self.out(x[subslice.core_mask])


def width_of(body: Callable[[int], nn.Module], sizes: tuple[int, int]) -> int:
    """Return the width, a multiple of 8, whose network is nearest to :data:`PARAMETERS`."""

    def gap(units: int) -> int:
        return count(Net(body, sizes, units * HEADS)) - PARAMETERS

    with torch.random.fork_rng():
        low, high = 1, 2
        while gap(high) < 0:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if gap(middle) < 0 else (low, middle)
        return min((low, high), key=lambda units: abs(gap(units))) * HEADS


def count(net: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(weight.numel() for weight in net.parameters() if weight.requires_grad)


@dataclass(frozen=True)
class GraphLayerModel:
    """Model of any problem: a network of graph layers, trained on sub-slices.

    The learning rate (of two) and the number of steps (up to 120) are chosen on a quarter of the
    training tissue, held out in blocks; then the network is retrained on all of it. The loss is the
    class-balanced cross-entropy for classes, the cross-entropy for shares, and the mean squared
    error for values. For ``"vectors"``, 30 % of the cells are masked at each step, and their niches
    (features beside means over one and two hops) are predicted; the embedding is the prediction
    without masking. For ``"molecules"``, training is that of the library
    (:mod:`stofm_geo.benchmark.molecule_models`), with these layers for its Transformer.

    Attributes:
        body: Function from a width to the graph layers.
        macro: As for :func:`stofm_geo.benchmark.graphs.graphs`.
        halo: As for :func:`stofm_geo.benchmark.graphs.graphs`.
    """

    body: Callable[[int], nn.Module]
    macro: bool = False
    halo: int = 2

    def __call__(self, problem: Problem, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Return predictions and a record of the training."""
        if problem.kind == "molecules":
            sizes = (3 * COMPONENTS, COMPONENTS)
            width, steps = width_of(self.body, sizes), STEPS * _MOLECULE_STEPS
            return layers(problem, seed, self.body, width, steps, self.macro)
        data = graphs(problem, macro=self.macro, halo=self.halo)
        sizes = (data.train[0].x.shape[1], data.outputs)
        width = width_of(self.body, sizes)

        def net() -> Net:
            torch.manual_seed(seed)
            return Net(self.body, sizes, width)

        results = {
            rate: _fit(net(), problem.kind, data, ~data.held_out, rate, STEPS, seed)
            for rate in RATES
        }
        rate = min(results, key=lambda rate: results[rate][0])
        loss, steps = results[rate]
        if not np.isfinite(loss):
            raise ValueError(
                "the loss is not finite at any learning rate; check that the layers are stable"
            )
        trained = net()
        _fit(trained, problem.kind, data, np.ones_like(data.held_out), rate, steps, seed)
        record = {"parameters": count(trained), "width": width, "rate": rate, "steps": steps}
        return _predictions(trained, problem, data), record | {"held_out_loss": round(loss, 5)}


def _fit(
    net: Net,
    kind: str,
    data: Graphs,
    train_cells: np.ndarray,
    rate: float,
    steps: int,
    seed: int,
) -> tuple[float, int]:
    """Train; return the lowest loss on held-out cells, if any, and its step."""
    train_mask = torch.from_numpy(train_cells)
    held_out = ~train_mask
    subslices = [
        subslice for subslice in data.train if _has_target(data, subslice, train_mask).any()
    ]
    loss = _loss(kind, data)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=_DECAY)
    best, best_step = np.inf, 1
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        net.train()
        subslice = subslices[int(torch.randint(len(subslices), (), generator=generator))]
        masked = _draw_mask(kind, subslice, generator)
        mask = _loss_mask(data, subslice, train_mask, masked)
        optimizer.zero_grad()
        loss(net(subslice, masked)[mask], data.target[subslice.row[mask]]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if held_out.any() and step % CHECK == 0:
            value = _held_out_loss(net, kind, data, held_out, loss)
            if value < best:
                best, best_step = value, step
            elif step - best_step >= PATIENCE:
                break
    return best, best_step


@torch.no_grad()
def _held_out_loss(net: Net, kind: str, data: Graphs, held_out: Tensor, loss: Callable) -> float:
    net.eval()
    generator = torch.Generator().manual_seed(0)
    total = weight = 0.0
    for subslice in data.train:
        if not _has_target(data, subslice, held_out).any():
            continue
        masked = _draw_mask(kind, subslice, generator)
        mask = _loss_mask(data, subslice, held_out, masked)
        if mask.any():
            value = loss(net(subslice, masked)[mask], data.target[subslice.row[mask]])
            total, weight = total + float(value) * int(mask.sum()), weight + int(mask.sum())
    return total / weight


def _has_target(data: Graphs, subslice: Data, cell_mask: Tensor) -> Tensor:
    """Return the core cells in ``cell_mask`` that have a target, ``[core cells]`` bool."""
    target = data.target[subslice.row]
    known = target >= 0 if target.dim() == 1 else torch.ones(len(target), dtype=torch.bool)
    return known & cell_mask[subslice.row]


def _loss_mask(data: Graphs, subslice: Data, cell_mask: Tensor, masked: Tensor | None) -> Tensor:
    """Return the core cells that enter the loss, ``[core cells]`` bool."""
    known = _has_target(data, subslice, cell_mask)
    return known if masked is None else known & masked[subslice.core_mask]


def _draw_mask(kind: str, subslice: Data, generator: torch.Generator) -> Tensor | None:
    if kind != "vectors":
        return None
    return torch.rand(subslice.num_nodes, generator=generator) < _MASK_RATIO


def _loss(kind: str, data: Graphs) -> Callable[[Tensor, Tensor], Tensor]:
    if kind == "classes":
        codes = data.target.numpy()
        weight = torch.from_numpy(balanced(codes[codes >= 0], data.outputs)).float()
        return lambda logits, codes: F.cross_entropy(logits, codes, weight)
    return F.cross_entropy if kind == "shares" else F.mse_loss


@torch.no_grad()
def _predictions(net: Net, problem: Problem, data: Graphs) -> list[np.ndarray]:
    net.eval()
    predictions = []
    for adata, subslices in zip(problem.test, data.test, strict=True):
        out = np.empty((adata.n_obs, data.outputs), dtype=np.float32)
        for subslice in subslices:
            out[subslice.n_id[subslice.core_mask].numpy()] = net(subslice).numpy()
        if problem.kind == "classes":
            out = np.array(problem.names, dtype=object)[out.argmax(axis=1)]
        elif problem.kind == "shares":
            out = torch.from_numpy(out).softmax(dim=1).numpy()
        elif problem.kind == "values":
            out = out * data.scale + data.mean
        predictions.append(out)
    return predictions
