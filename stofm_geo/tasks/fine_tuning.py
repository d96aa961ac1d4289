"""Learning labels: the classifier first, then, if asked, the network below it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from stofm_geo._checks import check_positive
from stofm_geo._keys import Keys
from stofm_geo._training import run
from stofm_geo.models.stofm import SToFM
from stofm_geo.tasks import lora
from stofm_geo.tasks.annotation import Annotator, Moments
from stofm_geo.tasks.calibration import temperature
from stofm_geo.tasks.labels import balanced, classes_of, codes_of, read_labels
from stofm_geo.tasks.metrics import scores
from stofm_geo.tasks.probe import choose, learn
from stofm_geo.tasks.splits import folds, tissue_groups
from stofm_geo.tasks.surroundings import Tissue, cells, places

METHODS = ("probe", "lora", "full")
_RATES = {"lora": 1e-3, "full": 1e-4}
_FOLDS = 4
_CHECK, _PATIENCE = 10, 5  # steps from check to check, checks without a better one
_LEAST_GAIN = 0.01  # of the loss: less is luck, and the network rather stays as it is


def fine_tune(
    model: SToFM,
    adata: AnnData | list[AnnData],
    label_key: str,
    method: str = "probe",
    *,
    task: str = "region",
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    held_out: float = 0.25,
    max_steps: int = 300,
    seed: int = 0,
    progress: bool = True,
    names: list[str] | None = None,
) -> Annotator:
    """Learn labels from slices; see :meth:`SToFM.fine_tune`.

    First, the classifier is fitted to the frozen network, by logistic regression; how strongly it
    is regularised is chosen on parts of the tissue that are held out in turns. With ``"lora"`` or
    ``"full"``, training goes on from there, end to end, for as many steps as are best on what is
    held out; then the same is done with all labels. Classes weigh the same, however many cells they
    have. What is held out are whole slices, where four or more have labels, else contiguous blocks
    of at most 200 cells.

    Args:
        model: Fitted; it stays as it is.
        adata: One or several AnnData with labels.
        label_key: Column of ``obs`` with labels; cells without one are not learned from.
        method: What is trained: ``"probe"``, the classifier alone (default); ``"lora"``, low-rank
            additions to the Transformer's linear layers, too (needs peft); ``"full"``, all
            weights.
        task: ``"region"`` (default): a cell's label is that of the tissue around it; or
            ``"cell_type"``: it is its own.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: one slice an AnnData.
        held_out: Share of the slices or blocks by which training is stopped, a half at most (default
            0.25).
        max_steps: Training steps at most, one sub-slice each (default 300; not for ``"probe"``).
        seed: Of what is held out, and of training.
        progress: Show a progress bar.
        names: What messages call each AnnData.

    Raises:
        KeyError: A column that is not there.
        ValueError: No labels, one alone, or input that does not fit the model.
        ImportError: ``method="lora"`` without peft.
    """
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(map(repr, METHODS))}; found {method!r}")
    check_positive("max_steps", max_steps, whole=True)
    check_positive("held_out", held_out)
    if held_out > 0.5:
        raise ValueError(f"held_out must be a half or less; found {held_out!r}")
    if method == "lora":
        lora.check_installed()
    adatas = [adata] if isinstance(adata, AnnData) else list(adata)
    if not adatas:
        raise ValueError("adata is an empty list; give one AnnData or more")
    if names is None:
        names = [f"AnnData {i}" if len(adatas) > 1 else "AnnData" for i in range(len(adatas))]
    labels = [read_labels(one, label_key, name) for one, name in zip(adatas, names, strict=True)]
    classes = classes_of(labels, label_key)
    tissues, codes = [], []
    for one, label, name in zip(adatas, labels, names, strict=True):
        code = codes_of(label, classes)
        for part in model.slices(one, spatial_key=spatial_key, slice_key=slice_key, name=name):
            tissue = Tissue.of(model, part, one.n_obs)
            if (code[tissue.rows] >= 0).any():
                tissues.append(tissue)
                codes.append(code[tissue.rows])
    annotator = Annotator(copy.deepcopy(model).cpu(), classes, task, absolute=len(tissues) > 1)
    return _Learning(annotator, tissues, codes, seed).learn(method, held_out, max_steps, progress)


class _Learning:
    """Slices and their labels, and what is done with them in turn."""

    def __init__(
        self, annotator: Annotator, tissues: list[Tissue], codes: list[np.ndarray], seed: int
    ) -> None:
        self.annotator, self.tissues, self.seed = annotator, tissues, seed
        self.of_slice, self.codes = codes, np.concatenate(codes)
        self.ends = np.cumsum([len(code) for code in codes])[:-1]
        surveys = [annotator.survey(tissue) for tissue in tissues]
        annotator.mean, annotator.std = Moments.of(torch.cat(surveys))
        read = [annotator.read(values, Moments.of(values)) for values in surveys]
        self.x = torch.cat(read).numpy()
        self.groups = np.concatenate(tissue_groups([tissue.positions for tissue in tissues]))

    def learn(self, method: str, held_out: float, max_steps: int, progress: bool) -> Annotator:
        annotator, count = self.annotator, len(self.annotator.classes)
        parts = folds(self.groups, self.codes, _FOLDS, self.seed)
        self.strength, rows, logits = choose(self.x, self.codes, count, parts, self.seed)
        annotator.record = {
            "method": method,
            "seed": self.seed,
            "slices": len(self.tissues),
            "labelled_cells": int((self.codes >= 0).sum()),
            "strength": self.strength,
            "steps": 0,
            "held_out": self._scores(rows, logits),
        }
        if method != "probe":
            part = folds(self.groups, self.codes, round(1 / held_out), self.seed)[0]
            steps, before, logits, rows = self._until_best(method, part, max_steps, progress)
            annotator.record |= {
                "steps": steps,
                "held_out_before": before,
                "held_out": self._scores(rows, logits),
            }
            self._start(np.ones_like(part))
            if steps:
                self._train(method, np.ones_like(part), None, steps, progress)
        else:
            self._start(np.ones(len(self.codes), dtype=bool))
        annotator.temperature.fill_(temperature(logits, self.codes[rows]))
        return annotator.eval()

    def _scores(self, rows: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        """Of cells that were held out."""
        found = scores(self.codes[rows], logits.argmax(axis=1))
        return {name: found[name] for name in ("cells", "accuracy", "macro_f1")}

    def _start(self, shown: np.ndarray) -> None:
        """The classifier of the frozen network, by cells that are shown."""
        rows = np.flatnonzero(shown & (self.codes >= 0))
        head = learn(self.x[rows], self.codes[rows], len(self.annotator.classes), self.strength)
        self.annotator.head.load_state_dict(head._asdict())

    def _until_best(
        self, method: str, part: np.ndarray, max_steps: int, progress: bool
    ) -> tuple[int, dict[str, float], np.ndarray, np.ndarray]:
        """Steps that are best on a part held out; scores before; its logits, and its rows."""
        before = copy.deepcopy(self.annotator.state_dict())
        self._start(~part)
        module = self._train(method, ~part, part, max_steps, progress)
        self.annotator.load_state_dict(before)
        rows = np.flatnonzero(part & (self.codes >= 0))
        return module.best_step, self._scores(rows, module.first), module.best, rows

    def _train(
        self,
        method: str,
        shown: np.ndarray,
        part: np.ndarray | None,
        max_steps: int,
        progress: bool,
    ) -> FineTuning:
        network = self.annotator.model.network
        with isolate_rng():
            L.seed_everything(self.seed, verbose=False)
            if method == "lora":
                self.annotator.model.network = lora.added(network)
            module = FineTuning(
                self.annotator,
                self.tissues,
                [np.where(s, c, -1) for s, c in self._split(shown)],
                None if part is None else [np.where(s, c, -1) for s, c in self._split(part)],
                rate=_RATES[method],
                strength=self.strength,
            )
            module.train()  # dropout, too; models rest without it
            loader = _batches(self.tissues, module.shown, max_steps)
            stop = EarlyStopping(FineTuning.MONITOR, patience=_PATIENCE)
            run(
                module,
                loader,
                max_steps=max_steps,
                progress=progress,
                held_out=_one_by_one(range(len(self.tissues))),
                check_every=min(_CHECK, max_steps),
                callbacks=[stop] if part is not None else [],
            )
            self.annotator.cpu()
            if method == "lora":
                self.annotator.model.network = lora.merged(self.annotator.model.network)
        return module

    def _split(self, mask: np.ndarray) -> Any:
        return zip(np.split(mask, self.ends), self.of_slice, strict=True)


class FineTuning(L.LightningModule):
    """Trains an annotator end to end, from what the probe has found.

    The loss is the probe's: cross-entropy, classes balanced, and its penalty of the classifier's
    weights. What is around a cell, and the moments of its slice, are those of the last check: they
    change slowly, and the cell's own vector has the gradients (as the historical embeddings of
    Fey et al. 2021, arXiv 2106.05609).

    Args:
        annotator: Trained in place.
        tissues: Slices.
        shown: Classes to learn from, ``[n]`` a slice; -1 for none.
        held_out: Classes to check by, alike; ``None``: nothing is checked.
        rate: Of AdamW.
        strength: Of the probe.

    Attributes:
        first, best: Logits of cells held out, before training and when they were likeliest.
        best_step: Steps until then.
    """

    MONITOR = "held_out_loss"

    def __init__(
        self,
        annotator: Annotator,
        tissues: Sequence[Tissue],
        shown: Sequence[np.ndarray],
        held_out: Sequence[np.ndarray] | None,
        *,
        rate: float,
        strength: float,
    ) -> None:
        super().__init__()
        self.annotator, self.tissues, self.rate = annotator, tissues, rate
        self.shown = [torch.from_numpy(codes) for codes in shown]
        self.held_out = None if held_out is None else [torch.from_numpy(c) for c in held_out]
        every = np.concatenate(shown)
        every = every[every >= 0]
        count = len(annotator.classes)
        self.register_buffer("weight", torch.from_numpy(balanced(every, count)).float())
        self.penalty = 0.5 / (strength * len(every))
        self.surveys: dict[int, Tensor] = {}
        self.moments: dict[int, Moments] = {}
        self.found: list[Tensor] = []
        self.best_loss, self.best_step = math.inf, 0
        self.first = self.best = np.empty((0, count))

    def training_step(self, batch: tuple[int, Data], batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        number, piece = batch
        tissue, annotator = self.tissues[number], self.annotator
        own = cells(annotator.model.network, piece, annotator.task)
        at = places(tissue, piece)
        codes = self.shown[number].to(at.device)[at]
        values = torch.cat([own, self.surveys[number][at, own.shape[1] :]], dim=1)
        known = codes >= 0
        logits = annotator.head(annotator.read(values[known], self.moments[number]))
        loss = F.cross_entropy(logits, codes[known], self.weight, reduction="sum") / known.sum()
        self.log("loss", loss, prog_bar=True, batch_size=1)
        return loss + self.penalty * annotator.head.weight.square().sum()

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Take stock of one slice."""
        values = self.annotator.survey(self.tissues[batch])
        self.surveys[batch], self.moments[batch] = values, Moments.of(values)
        if self.held_out is not None:
            known = (self.held_out[batch] >= 0).to(values.device)
            self.found.append(
                self.annotator.head(self.annotator.read(values[known], self.moments[batch]))
            )

    def on_validation_epoch_end(self) -> None:
        """Note what is best."""
        if self.held_out is None:
            return
        codes = torch.cat(self.held_out)
        codes, logits = codes[codes >= 0].to(self.device), torch.cat(self.found)
        self.found.clear()
        weight = torch.from_numpy(balanced(codes.cpu().numpy(), logits.shape[1])).to(logits)
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


class _Labelled(torch.utils.data.Dataset):
    """Sub-slices with labelled core cells, each with the number of its slice."""

    def __init__(self, tissues: Sequence[Tissue], shown: Sequence[Tensor]) -> None:
        self.pieces = [
            (number, piece)
            for number, (tissue, codes) in enumerate(zip(tissues, shown, strict=True))
            for piece in tissue.pieces
            if (codes[places(tissue, piece)] >= 0).any()
        ]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> tuple[int, Data]:
        return self.pieces[index]


def _batches(tissues: Sequence[Tissue], shown: Sequence[Tensor], max_steps: int) -> DataLoader:
    """Sub-slices, one at a time, all before any comes again."""
    data = _Labelled(tissues, shown)
    rounds = -(-max_steps // len(data))
    order = torch.cat([torch.randperm(len(data)) for _ in range(rounds)])[:max_steps]
    return DataLoader(data, batch_size=None, sampler=order.tolist(), collate_fn=_as_is)


def _one_by_one(numbers: range) -> DataLoader:
    return DataLoader(numbers, batch_size=None, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
