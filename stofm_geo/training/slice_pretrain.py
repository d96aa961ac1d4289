"""Pre-training on slices in memory, which ends when what is held out is predicted no better."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from torch_geometric.data import Batch, Data

from stofm_geo.data.molecules import MoleculeSlice
from stofm_geo.data.subslices import SubSliceDataset, collate_subslices
from stofm_geo.data.tissue_slice import TissueSlice
from stofm_geo.genes import CellFeatures
from stofm_geo.genes.splitting import are_whole
from stofm_geo.networks import MoleculeNetwork, make_network
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.state import TrainingRecord
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.networks.warm_start import warm_start
from stofm_geo.training.objectives.molecules import MoleculeMasking, fit_linear
from stofm_geo.training.pretrain import Pretraining
from stofm_geo.training.pretraining_loader import pretraining_loader
from stofm_geo.training.trainer import fit_module

_CHECK, _MOST_CHECKS = 20, 20  # least steps from check to check, most checks
_PATIENCE = 5  # checks without a better one; a high learning rate holds some up that are to come
_STEPS, _NICHE_STEPS = 600, 80  # at most, by default
_LEAST_GAIN = 1e-4  # of the loss
_HELD_OUT = 4  # sub-slices at most: a check costs about as much as a step of training


class SlicePretraining(Pretraining):
    """:class:`Pretraining` that keeps the weights with the least held-out loss.

    The weights before training, with which embeddings are averages, are the first candidate.

    Attributes:
        best_step: Steps of training after which the first loss was least; 0 is before training.
        best_losses: Then: each loss before that of its baseline, ``[2 losses]``.
        first_losses: The same before training.
    """

    MONITOR = "held_out_loss"

    def __init__(self, network: SToFMNetwork, config: SToFMConfig) -> None:
        super().__init__(network, config)
        self.best_step = 0
        self.best_losses = self.first_losses = torch.zeros(2 * len(self.objectives.losses))
        self._best: dict[str, Tensor] = {}
        self._found: list[Tensor] = []

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """See ``LightningModule``."""
        losses = self.losses(batch).values()
        self._found.append(torch.stack([torch.stack([*loss]) for loss in losses]))

    def on_validation_epoch_end(self) -> None:
        """Log the first loss; keep the weights if it is the least."""
        sums = torch.stack(self._found).sum(dim=0)  # [losses, 3]
        self._found.clear()
        losses = (sums[:, :2] / sums[:, 2:].clamp_min(1)).flatten().cpu()
        self.log(self.MONITOR, losses[0], prog_bar=True)
        if self.trainer.sanity_checking:
            self.first_losses = losses
        if self.trainer.sanity_checking or losses[0] < self.best_losses[0]:
            self.best_step, self.best_losses = self.global_step, losses
            self._best = copy.deepcopy(self.network.state_dict())

    def keep_best(self) -> None:
        """Load the best weights."""
        self.network.load_state_dict(self._best)


def objective_of(
    asked: str | None, encoder: str, use_rep: str | None, slices: Sequence[TissueSlice]
) -> str:
    """Return the objective of ``SToFMConfig``, or the best possible one for ``None``.

    Args:
        asked: ``SToFMConfig.objectives``, or ``None``.
        encoder: ``SToFMConfig.encoder``.
        use_rep: Key in ``obsm`` of the features; ``None``: they are made of counts.
        slices: Slices to train on.

    Raises:
        ValueError: Molecules are to be held out, but features are not components of whole counts.

    Warns:
        UserWarning: Counts are not whole, so that molecules cannot be held out.
    """
    if asked not in (None, "molecules"):
        return str(asked)
    reason = ""
    # A panel encoder learns niches unless it is told otherwise.
    if use_rep is not None or encoder not in ("pca", "panel") or (encoder == "panel" and not asked):
        reason = "features are not the principal components of counts (encoder='pca' or 'panel')"
    elif not all(are_whole(part.adata.X) for part in slices):
        reason = "counts are not whole numbers"
        if asked is None:
            warnings.warn(
                f"{reason}: molecules cannot be held out, and averages of neighbours are learned "
                "instead (objectives='niches'); give raw counts, in X or in a layer",
                stacklevel=3,
            )
    if reason and asked is not None:
        raise ValueError(f"objectives='molecules' cannot hold out molecules: {reason}")
    return "niches" if reason else "molecules"


def pretrain_slices(
    config: SToFMConfig,
    encoder: CellFeatures,
    slices: Sequence[SubSliceDataset],
    max_steps: int | None,
    *,
    seed: int,
    progress: bool,
) -> tuple[SToFMNetwork, TrainingRecord]:
    """Train a new network on slices; call it in :func:`~stofm_geo.training.trainer.seed_context`.

    Args:
        config: Configuration of the network and its training.
        encoder: Fitted; one that is trained with the network becomes a part of it.
        slices: Sub-slices of each slice.
        max_steps: Training steps at most; ``None``: 600 if molecules are held out, else 80.
        seed: Random seed of the held-out masks.
        progress: Show a progress bar.

    Returns:
        The network, on the CPU and in evaluation mode, and how it was trained.
    """
    if max_steps is None:
        max_steps = _STEPS if config.objectives == "molecules" else _NICHE_STEPS
    network = make_network(config, encoder)
    if encoder.module is not None:
        warm_start(encoder.module, [own.panel for own in slices])
    record = train_network(
        network, config, encoder, slices, max_steps, seed=seed, progress=progress
    )
    return network, record


def train_network(
    network: SToFMNetwork,
    config: SToFMConfig,
    encoder: CellFeatures,
    slices: Sequence[SubSliceDataset],
    max_steps: int,
    *,
    seed: int,
    progress: bool,
) -> TrainingRecord:
    """Train a network in place, as :func:`pretrain_slices` does; it ends in evaluation mode.

    With 0 steps, of a network that predicts molecules the linear part alone is fitted.
    """
    module = SlicePretraining(network, config)
    items: list[Any] = [*slices]
    if config.objectives == "molecules":
        items = [MoleculeSlice(own) for own in slices]
    every: Any = ConcatDataset(items)
    steps = pretrain(module, every, max_steps, seed=seed, progress=progress)
    network.cpu().eval()
    return {
        "seed": seed,
        "steps": steps,
        "best_step": module.best_step,
        "slices": len(slices),
        "cells": sum(len(own.part) for own in slices),
        **_losses(module),
    }


def _losses(module: SlicePretraining) -> TrainingRecord:
    """Return the losses of the best weights and of what they are compared to."""
    best = module.best_losses.tolist()
    if module.config.objectives == "molecules":
        return {
            "molecule_loss": best[0],
            "molecule_loss_of_averages": module.first_losses.tolist()[0],
            "molecule_loss_of_mean": best[1],
        }
    return {
        "niche_loss": best[0],
        "niche_loss_of_averages": best[1],
        "distance_loss": best[2],
        "distance_loss_as_seen": best[3],
    }


def pretrain(
    module: SlicePretraining,
    subslices: Sequence[Data],
    max_steps: int,
    *,
    seed: int,
    progress: bool,
) -> int:
    """Train in place on masked sub-slices, one per step, and load the best weights.

    Args:
        module: What is trained.
        subslices: Sub-slices of any slices.
        max_steps: Steps at most; they are whole intervals between checks, so that up to one in
            twenty may be left out.
        seed: Of the held-out masks.
        progress: Show a progress bar.

    Returns:
        Number of steps.
    """
    held_out = _held_out(subslices, module.objectives.held_out, seed)
    if isinstance(module.network, MoleculeNetwork):
        fit_linear(module.network, subslices, MoleculeMasking(module.config), held_out)
    if max_steps == 0:
        return 0
    every, steps = whole_checks(max_steps)
    fit_module(
        module,
        pretraining_loader(subslices, module.config, steps),
        max_steps=steps,
        progress=progress,
        held_out=DataLoader(held_out, batch_size=None, generator=torch.Generator()),  # type: ignore[arg-type]  # a list is as good as a dataset
        check_every=every,
        callbacks=[
            EarlyStopping(module.MONITOR, min_delta=_LEAST_GAIN, patience=_PATIENCE, mode="min")
        ],
    )
    module.keep_best()
    return module.trainer.global_step


def whole_checks(max_steps: int) -> tuple[int, int]:
    """Return the steps from check to check, and how many there are until the last check."""
    checks = min(max(1, max_steps // _CHECK), _MOST_CHECKS)
    every = max_steps // checks
    return every, checks * every


def _held_out(subslices: Sequence[Data], masking: Callable[[Data], Data], seed: int) -> list[Batch]:
    """Return a few sub-slices whose masks are the same at each check."""
    count = min(_HELD_OUT, len(subslices))
    some = torch.linspace(0, len(subslices) - 1, count).round().long().tolist()
    with torch.random.fork_rng(devices=[]):  # training draws as if nothing were held out
        torch.manual_seed(seed)
        return [collate_subslices([masking(subslices[i])]) for i in some]
