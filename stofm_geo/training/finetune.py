"""End-to-end training of an annotator, checked on what is held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from stofm_geo.data import SubSliceDataset
from stofm_geo.training.trainer import fit_module

if TYPE_CHECKING:
    from stofm_geo.tasks.annotation.annotator import Annotator
    from stofm_geo.tasks.annotation.standardization import Moments

_CHECK, _PATIENCE = 10, 5  # steps from check to check, checks without a better one
_LEAST_GAIN = 0.01  # of the loss: less is luck, and the network rather stays as it is


class FineTuning(L.LightningModule):
    """Trains an annotator end to end, from what the probe has found.

    The loss is the probe's: cross-entropy, classes balanced, and its penalty of the classifier's
    weights. What is around a cell, and the moments of its slice, are those of the last check: they
    change slowly, and the cell's own vector has the gradients (as the historical embeddings of
    Fey et al. 2021, arXiv 2106.05609).

    Args:
        annotator: Trained in place.
        slices: Slices.
        shown: Classes to learn from, ``[n]`` a slice; -1 for none.
        held_out: Classes to check by, alike; ``None``: nothing is checked.
        class_weights: From classes ``[n]`` and their number to the weight of each class.
        rate: Of AdamW.
        strength: Of the probe.

    Attributes:
        first, best: Logits of cells held out, before training and when they were likeliest.
        best_step: Steps until then.
    """

    weight: Tensor
    MONITOR = "held_out_loss"

    def __init__(
        self,
        annotator: Annotator,
        slices: Sequence[SubSliceDataset],
        shown: Sequence[np.ndarray],
        held_out: Sequence[np.ndarray] | None,
        class_weights: Callable[[np.ndarray, int], np.ndarray],
        *,
        rate: float,
        strength: float,
    ) -> None:
        super().__init__()
        self.annotator, self.slices, self.rate = annotator, slices, rate
        self.shown = [torch.from_numpy(codes) for codes in shown]
        self.held_out = None if held_out is None else [torch.from_numpy(c) for c in held_out]
        every = np.concatenate(shown)
        every = every[every >= 0]
        count = len(annotator.classes)
        self.class_weights = class_weights
        self.register_buffer("weight", torch.from_numpy(class_weights(every, count)).float())
        self.penalty = 0.5 / (strength * len(every))
        self.embeddings: dict[int, Tensor] = {}
        self.moments: dict[int, Moments] = {}
        self.found: list[Tensor] = []
        self.best_loss, self.best_step = math.inf, 0
        self.first = self.best = np.empty((0, count))

    def training_step(self, batch: tuple[int, Data], batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        number, subslice = batch
        subslices, annotator = self.slices[number], self.annotator
        own = annotator.vectors(subslice)
        at = subslices.core_index(subslice)
        codes = self.shown[number].to(at.device)[at]
        values = torch.cat([own, self.embeddings[number][at, own.shape[1] :]], dim=1)
        known = codes >= 0
        logits = annotator.head(annotator.read(values[known], self.moments[number]))
        loss = F.cross_entropy(logits, codes[known], self.weight, reduction="sum") / known.sum()
        self.log("loss", loss, prog_bar=True, batch_size=1)
        head: Any = annotator.head  # a linear layer, or one beside another
        return loss + self.penalty * head.weight.square().sum()

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Compute the vectors and moments of one slice."""
        values = self.annotator.embed_slice(self.slices[batch])
        self.embeddings[batch] = values
        self.moments[batch] = self.annotator.moments(values)
        if self.held_out is not None:
            known = (self.held_out[batch] >= 0).to(values.device)
            self.found.append(
                self.annotator.head(self.annotator.read(values[known], self.moments[batch]))
            )

    def on_validation_epoch_end(self) -> None:
        """Log the loss of the held-out cells and keep the best logits."""
        if self.held_out is None:
            return
        codes = torch.cat(self.held_out)
        codes, logits = codes[codes >= 0].to(self.device), torch.cat(self.found)
        self.found.clear()
        class_weights = self.class_weights(codes.cpu().numpy(), logits.shape[1])
        weight = torch.from_numpy(class_weights).to(logits)
        loss = F.cross_entropy(logits, codes, weight, reduction="sum") / len(codes)
        self.log(self.MONITOR, loss, prog_bar=True)
        if self.trainer.sanity_checking:
            self.first = logits.double().cpu().numpy()
        if loss < self.best_loss * (1 if self.best_step else 1 - _LEAST_GAIN):
            self.best_loss, self.best_step = float(loss), self.global_step
            self.best = logits.double().cpu().numpy()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """See ``LightningModule``."""
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        return torch.optim.AdamW(trained, lr=self.rate, weight_decay=0.01)


def train(module: FineTuning, max_steps: int, progress: bool) -> None:
    """Train for at most ``max_steps`` steps, with early stopping on the held-out loss."""
    module.train()  # dropout, too; models rest without it
    stop = EarlyStopping(FineTuning.MONITOR, patience=_PATIENCE)
    fit_module(
        module,
        _batches(module.slices, module.shown, max_steps),
        max_steps=max_steps,
        progress=progress,
        held_out=_one_by_one(range(len(module.slices))),
        check_every=min(_CHECK, max_steps),
        callbacks=[] if module.held_out is None else [stop],
    )


class _Labelled(torch.utils.data.Dataset):
    """Sub-slices with labelled core cells, each with the number of its slice."""

    def __init__(self, slices: Sequence[SubSliceDataset], shown: Sequence[Tensor]) -> None:
        self.subslices = [
            (number, subslice)
            for number, (subslices, codes) in enumerate(zip(slices, shown, strict=True))
            for subslice in subslices
            if (codes[subslices.core_index(subslice)] >= 0).any()
        ]

    def __len__(self) -> int:
        return len(self.subslices)

    def __getitem__(self, index: int) -> tuple[int, Data]:
        return self.subslices[index]


def _batches(
    slices: Sequence[SubSliceDataset], shown: Sequence[Tensor], max_steps: int
) -> DataLoader:
    """Return a loader of single sub-slices that draws all before repeating any."""
    data = _Labelled(slices, shown)
    rounds = -(-max_steps // len(data))
    order = torch.cat([torch.randperm(len(data)) for _ in range(rounds)])[:max_steps]
    return DataLoader(data, batch_size=None, sampler=order.tolist(), collate_fn=_as_is)


def _one_by_one(numbers: range) -> DataLoader:
    """Return a loader of plain numbers, unbatched."""
    data: Any = numbers  # a range is as good as a dataset
    return DataLoader(data, batch_size=None, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
