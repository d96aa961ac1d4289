"""Any graph layer as a model of all tasks: the same size, budget and tuning for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo.benchmark.graphs import Graphs, graphs
from stofm_geo.benchmark.layers import HEADS
from stofm_geo.benchmark.problems import Problem
from stofm_geo.tasks.labels import balanced

PARAMETERS = 300_000  # as many as SToFM's transformer has
RATES = (3e-3, 1e-3)
STEPS, CHECK, PATIENCE = 120, 10, 40
_DECAY, _HIDDEN = 1e-2, 0.3


class Net(nn.Module):
    """Features in, a body of layers, numbers a cell out.

    Args:
        body: Makes the layers, of a width.
        sizes: Features and outputs.
        width: Of the body.
    """

    def __init__(
        self, body: Callable[[int], nn.Module], sizes: tuple[int, int], width: int
    ) -> None:
        super().__init__()
        self.first = nn.Linear(sizes[0], width)
        self.token = nn.Parameter(torch.zeros(width))  # of hidden cells
        self.body = body(width)
        self.out = nn.Linear(width, sizes[1])

    def forward(self, subslice: Data, hidden: Tensor | None = None) -> Tensor:
        """``[core cells, outputs]``; features of ``hidden`` nodes ``[N]`` are not seen."""
        x = self.first(subslice.x)
        if hidden is not None:
            x = torch.where(hidden[:, None], self.token, x)
        x = self.body(x, subslice.edge_index, subslice.pos)
        return self.out(x[subslice.core_mask])


def width_of(body: Callable[[int], nn.Module], sizes: tuple[int, int]) -> int:
    """Return the multiple of 8 whose network is nearest to :data:`PARAMETERS`."""

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
    """Its parameters."""
    return sum(weight.numel() for weight in net.parameters() if weight.requires_grad)


@dataclass(frozen=True)
class GraphLayerModel:
    """A model of any problem: a body of layers, trained on sub-slices of the training slices.

    Learning rate (two) and number of steps (up to 120) are those that do best on a quarter of the
    training tissue, held out in blocks; then the network is trained anew on all of it. The loss is
    cross-entropy of classes, all weighing the same; of shares; the mean square of values. Of
    ``"vectors"``, 30 % of the cells are hidden at each step, and their niches asked for: own
    features beside means over one and two steps. What is said of cells that are not hidden is the
    embedding.

    Attributes:
        body: Makes the layers, of a width.
        macro, halo: Of :func:`stofm_geo.benchmark.graphs.graphs`.
    """

    body: Callable[[int], nn.Module]
    macro: bool = False
    halo: int = 2

    def __call__(self, problem: Problem, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Answers, and how they came about."""
        data = graphs(problem, macro=self.macro, halo=self.halo)
        sizes = (data.train[0].x.shape[1], data.outputs)
        width = width_of(self.body, sizes)

        def net() -> Net:
            torch.manual_seed(seed)
            return Net(self.body, sizes, width)

        tried = {
            rate: _fit(net(), problem.kind, data, ~data.held_out, rate, STEPS, seed)
            for rate in RATES
        }
        rate = min(tried, key=lambda rate: tried[rate][0])
        loss, steps = tried[rate]
        if not np.isfinite(loss):
            raise ValueError("the loss is finite at no learning rate: layers give NaN, or grow")
        final = net()
        _fit(final, problem.kind, data, np.ones_like(data.held_out), rate, steps, seed)
        record = {"parameters": count(final), "width": width, "rate": rate, "steps": steps}
        return _answers(final, problem, data), record | {"held_out_loss": round(loss, 5)}


def _fit(
    net: Net,
    kind: str,
    data: Graphs,
    shown: np.ndarray,
    rate: float,
    steps: int,
    seed: int,
) -> tuple[float, int]:
    """Train; return the least loss on what is not shown, if anything, and its step."""
    train_mask = torch.from_numpy(shown)
    held_out = ~train_mask
    subslices = [subslice for subslice in data.train if _known(data, subslice, train_mask).any()]
    loss = _loss(kind, data)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=_DECAY)
    best, at = np.inf, 1
    draw = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        net.train()
        subslice = subslices[int(torch.randint(len(subslices), (), generator=draw))]
        hidden = _hide(kind, subslice, draw)
        use = _asked(data, subslice, train_mask, hidden)
        optimizer.zero_grad()
        loss(net(subslice, hidden)[use], data.target[subslice.row[use]]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if held_out.any() and step % CHECK == 0:
            found = _held_out_loss(net, kind, data, held_out, loss)
            if found < best:
                best, at = found, step
            elif step - at >= PATIENCE:
                break
    return best, at


@torch.no_grad()
def _held_out_loss(net: Net, kind: str, data: Graphs, asked: Tensor, loss: Callable) -> float:
    net.eval()
    draw = torch.Generator().manual_seed(0)
    total = weight = 0.0
    for subslice in data.train:
        if not _known(data, subslice, asked).any():
            continue
        hidden = _hide(kind, subslice, draw)
        use = _asked(data, subslice, asked, hidden)
        if use.any():
            found = loss(net(subslice, hidden)[use], data.target[subslice.row[use]])
            total, weight = total + float(found) * int(use.sum()), weight + int(use.sum())
    return total / weight


def _known(data: Graphs, subslice: Data, shown: Tensor) -> Tensor:
    """Core cells that are shown and have a target."""
    target = data.target[subslice.row]
    known = target >= 0 if target.dim() == 1 else torch.ones(len(target), dtype=torch.bool)
    return known & shown[subslice.row]


def _asked(data: Graphs, subslice: Data, shown: Tensor, hidden: Tensor | None) -> Tensor:
    """Core cells whose loss counts."""
    known = _known(data, subslice, shown)
    return known if hidden is None else known & hidden[subslice.core_mask]


def _hide(kind: str, subslice: Data, draw: torch.Generator) -> Tensor | None:
    if kind != "vectors":
        return None
    return torch.rand(subslice.num_nodes, generator=draw) < _HIDDEN


def _loss(kind: str, data: Graphs) -> Callable[[Tensor, Tensor], Tensor]:
    if kind == "classes":
        codes = data.target.numpy()
        weight = torch.from_numpy(balanced(codes[codes >= 0], data.outputs)).float()
        return lambda found, codes: F.cross_entropy(found, codes, weight)
    return F.cross_entropy if kind == "shares" else F.mse_loss


@torch.no_grad()
def _answers(net: Net, problem: Problem, data: Graphs) -> list[np.ndarray]:
    net.eval()
    answers = []
    for part, subslices in zip(problem.test, data.test, strict=True):
        out = np.empty((part.n_obs, data.outputs), dtype=np.float32)
        for subslice in subslices:
            out[subslice.n_id[subslice.core_mask].numpy()] = net(subslice).numpy()
        if problem.kind == "classes":
            out = np.array(problem.names, dtype=object)[out.argmax(axis=1)]
        elif problem.kind == "shares":
            out = torch.from_numpy(out).softmax(dim=1).numpy()
        elif problem.kind == "values":
            out = out * data.scale + data.mean
        answers.append(out)
    return answers
