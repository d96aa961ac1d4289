"""Pre-training on slices in memory, which ends when held-out masks are guessed no better."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from torch_geometric.data import Data

from stofm_geo.data.subslices import SubSliceDataset, collate_subslices
from stofm_geo.genes import CellFeatures
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.state import TrainingRecord
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.networks.warm_start import warm_start
from stofm_geo.training.objectives import PretrainingObjective
from stofm_geo.training.pretrain import Pretraining
from stofm_geo.training.pretraining_loader import pretraining_loader
from stofm_geo.training.trainer import fit_module

_CHECK, _PATIENCE = 20, 3  # steps from check to check, checks without a better one
_LEAST_GAIN = 1e-4  # of the loss
_HELD_OUT = 4  # sub-slices at most: a check costs about as much as a step of training


class SlicePretraining(Pretraining):
    """:class:`Pretraining` that keeps the weights with the least held-out niche loss.

    The weights before training, with which embeddings are the averages, are the first candidate.

    Attributes:
        best_step: Steps of training after which the loss was least; 0 is before training.
        best_losses: Then: niche and distance loss, each before its baseline, ``[4]``.
    """

    MONITOR = "held_out_niche_loss"

    def __init__(self, network: SToFMNetwork, config: SToFMConfig) -> None:
        super().__init__(network, config)
        self.best_step, self.best_losses = 0, torch.zeros(4)
        self._best: dict[str, Tensor] = {}
        self._found: list[Tensor] = []

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """See ``LightningModule``."""
        z, pair = self.network(batch)
        niches = self.objectives.niche_loss(self.network, batch, z)
        distances = self.objectives.distance_loss(self.network, batch, pair)
        self._found.append(torch.stack([*niches, *distances]))

    def on_validation_epoch_end(self) -> None:
        """Log the niche loss; keep the weights if it is the least."""
        niche, averages, niches, distance, seen, distances = torch.stack(self._found).sum(dim=0)
        self._found.clear()
        niches, distances = niches.clamp_min(1), distances.clamp_min(1)
        losses = torch.stack(
            [niche / niches, averages / niches, distance / distances, seen / distances]
        ).cpu()
        self.log(self.MONITOR, losses[0], prog_bar=True)
        if self.trainer.sanity_checking or losses[0] < self.best_losses[0]:
            self.best_step, self.best_losses = self.global_step, losses
            self._best = copy.deepcopy(self.network.state_dict())

    def keep_best(self) -> None:
        """Load the best weights."""
        self.network.load_state_dict(self._best)


def pretrain_slices(
    config: SToFMConfig,
    encoder: CellFeatures,
    slices: Sequence[SubSliceDataset],
    max_steps: int,
    *,
    seed: int,
    progress: bool,
) -> tuple[SToFMNetwork, TrainingRecord]:
    """Train a new network on slices; call it in :func:`~stofm_geo.training.trainer.seed_context`.

    Args:
        config: Configuration of the network and its training.
        encoder: Fitted; one that is trained with the network becomes a part of it.
        slices: Sub-slices of each slice.
        max_steps: Training steps at most.
        seed: Random seed of the held-out masks.
        progress: Show a progress bar.

    Returns:
        The network, on the CPU and in evaluation mode, and how it was trained.
    """
    network = SToFMNetwork(encoder.out_channels, config, encoder.module)
    module = SlicePretraining(network, config)
    if encoder.module is not None:
        warm_start(encoder.module, [own.panel for own in slices])
    every: Any = ConcatDataset(slices)  # type: ignore[arg-type]  # any sequences do
    steps = pretrain(module, every, max_steps, seed=seed, progress=progress)
    losses = module.best_losses.tolist()
    return network.cpu().eval(), {
        "seed": seed,
        "steps": steps,
        "best_step": module.best_step,
        "slices": len(slices),
        "cells": sum(len(own.part) for own in slices),
        "niche_loss": losses[0],
        "niche_loss_of_averages": losses[1],
        "distance_loss": losses[2],
        "distance_loss_as_seen": losses[3],
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
    every, steps = whole_checks(max_steps)
    fit_module(
        module,
        pretraining_loader(subslices, module.config, steps),
        max_steps=steps,
        progress=progress,
        held_out=_held_out(subslices, module.config, seed),
        check_every=every,
        callbacks=[
            EarlyStopping(module.MONITOR, min_delta=_LEAST_GAIN, patience=_PATIENCE, mode="min")
        ],
    )
    module.keep_best()
    return module.trainer.global_step


def whole_checks(max_steps: int) -> tuple[int, int]:
    """Return the steps from check to check, and how many there are until the last check."""
    checks = max(1, max_steps // _CHECK)
    every = max_steps // checks
    return every, checks * every


def _held_out(subslices: Sequence[Data], config: SToFMConfig, seed: int) -> DataLoader:
    """Return a loader of a few sub-slices whose masks are the same at each check."""
    count = min(_HELD_OUT, len(subslices))
    some = torch.linspace(0, len(subslices) - 1, count).round().long().tolist()
    masking = PretrainingObjective.from_config(config).masking
    with torch.random.fork_rng(devices=[]):  # training draws as if nothing were held out
        torch.manual_seed(seed)
        batches = [collate_subslices([masking(subslices[i])]) for i in some]
    data: Any = batches  # a list is as good as a dataset
    return DataLoader(data, batch_size=None, generator=torch.Generator())
