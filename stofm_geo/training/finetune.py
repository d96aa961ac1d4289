"""End-to-end training of an annotator, validated on held-out cells."""

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

_CHECK, _PATIENCE = 10, 5  # steps between validations, validations without improvement
_LEAST_GAIN = 0.01  # relative gain of the loss below which the network stays unchanged


class FineTuning(L.LightningModule):
    """Module that trains an annotator end to end, starting from the linear probe.

    The loss is that of the probe: class-balanced cross-entropy and a penalty on the weights of the
    classifier. Multi-hop means and the moments of a slice are those of the last validation: they
    change slowly, and gradients flow through the vector of the cell itself, as with the historical
    embeddings of Fey et al. 2021 (arXiv 2106.05609).

    Args:
        annotator: Annotator, trained in place.
        slices: Slices as sub-slices.
        train_codes: Training classes of each slice, ``[n]`` each; -1 for none.
        held_out: Validation classes of each slice, ``[n]`` each; -1 for none. ``None``: no
            validation.
        class_weights: Function from classes ``[n]`` and their number to the weight of each class.
        rate: Learning rate of AdamW.
        strength: Inverse regularisation strength of the probe.

    Attributes:
        first: Logits of held-out cells before training.
        best: Logits of held-out cells at the lowest loss.
        best_step: Number of steps at the lowest loss.
    """

    weight: Tensor
    MONITOR = "held_out_loss"

    def __init__(
        self,
        annotator: Annotator,
        slices: Sequence[SubSliceDataset],
        train_codes: Sequence[np.ndarray],
        held_out: Sequence[np.ndarray] | None,
        class_weights: Callable[[np.ndarray, int], np.ndarray],
        *,
        rate: float,
        strength: float,
    ) -> None:
        super().__init__()
        self.annotator, self.slices, self.rate = annotator, slices, rate
        self.train_codes = [torch.from_numpy(codes) for codes in train_codes]
        self.held_out = None if held_out is None else [torch.from_numpy(c) for c in held_out]
        codes = np.concatenate(train_codes)
        codes = codes[codes >= 0]
        count = len(annotator.classes)
        self.class_weights = class_weights
        self.register_buffer("weight", torch.from_numpy(class_weights(codes, count)).float())
        self.penalty = 0.5 / (strength * len(codes))
        self.embeddings: dict[int, Tensor] = {}
        self.moments: dict[int, Moments] = {}
        self.held_out_logits: list[Tensor] = []
        self.best_loss, self.best_step = math.inf, 0
        self.first = self.best = np.empty((0, count))

    def training_step(self, batch: tuple[int, Data], batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        index, subslice = batch
        subslices, annotator = self.slices[index], self.annotator
        vectors = annotator.vectors(subslice)
        rows = subslices.core_index(subslice)
        codes = self.train_codes[index].to(rows.device)[rows]
        values = torch.cat([vectors, self.embeddings[index][rows, vectors.shape[1] :]], dim=1)
        known = codes >= 0
        logits = annotator.head(annotator.read(values[known], self.moments[index]))
        loss = F.cross_entropy(logits, codes[known], self.weight, reduction="sum") / known.sum()
        self.log("loss", loss, prog_bar=True, batch_size=1)
        head: Any = annotator.head  # a linear layer, or an mlp.Classifier
        return loss + self.penalty * head.weight.square().sum()

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Compute the vectors and moments of one slice."""
        values = self.annotator.embed_slice(self.slices[batch])
        self.embeddings[batch] = values
        self.moments[batch] = self.annotator.moments(values)
        if self.held_out is not None:
            known = (self.held_out[batch] >= 0).to(values.device)
            self.held_out_logits.append(
                self.annotator.head(self.annotator.read(values[known], self.moments[batch]))
            )

    def on_validation_epoch_end(self) -> None:
        """Log the loss of the held-out cells and keep the best logits."""
        if self.held_out is None:
            return
        codes = torch.cat(self.held_out)
        codes, logits = codes[codes >= 0].to(self.device), torch.cat(self.held_out_logits)
        self.held_out_logits.clear()
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
    module.train()  # models are otherwise kept in evaluation mode
    stop = EarlyStopping(FineTuning.MONITOR, patience=_PATIENCE)
    fit_module(
        module,
        _batches(module.slices, module.train_codes, max_steps),
        max_steps=max_steps,
        progress=progress,
        held_out=_slice_loader(range(len(module.slices))),
        check_every=min(_CHECK, max_steps),
        callbacks=[] if module.held_out is None else [stop],
    )


class _LabelledSubSlices(torch.utils.data.Dataset):
    """Data set of sub-slices with labelled core cells, each with the index of its slice."""

    def __init__(self, slices: Sequence[SubSliceDataset], train_codes: Sequence[Tensor]) -> None:
        self.subslices = [
            (number, subslice)
            for number, (subslices, codes) in enumerate(zip(slices, train_codes, strict=True))
            for subslice in subslices
            if (codes[subslices.core_index(subslice)] >= 0).any()
        ]

    def __len__(self) -> int:
        return len(self.subslices)

    def __getitem__(self, index: int) -> tuple[int, Data]:
        return self.subslices[index]


def _batches(
    slices: Sequence[SubSliceDataset], train_codes: Sequence[Tensor], max_steps: int
) -> DataLoader:
    """Return a loader of single sub-slices, which uses all before repeating any."""
    data = _LabelledSubSlices(slices, train_codes)
    rounds = -(-max_steps // len(data))
    order = torch.cat([torch.randperm(len(data)) for _ in range(rounds)])[:max_steps]
    return DataLoader(data, batch_size=None, sampler=order.tolist(), collate_fn=_identity)


def _slice_loader(numbers: range) -> DataLoader:
    """Return a loader of the indices of slices, unbatched."""
    data: Any = numbers  # a range behaves like a dataset
    return DataLoader(data, batch_size=None, collate_fn=_identity)


def _identity(batch: Any) -> Any:
    return batch
