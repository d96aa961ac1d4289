"""Callbacks of pre-training: the best model, checkpoints, signals, and speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch_geometric.data import Data

from stofm_geo._files import atomic_folder
from stofm_geo._signals import Stopped, received_signal
from stofm_geo.networks.files import FILES


class SaveBestModel(Callback):
    """Write the model into a folder whenever ``monitor`` reaches a new minimum.

    The folder has the format of ``SToFM.save_pretrained``: safetensors and JSON.

    Args:
        folder: Target folder, replaced as a whole each time; parents are created.
        monitor: Name of a logged value (default ``"val/loss"``).
    """

    def __init__(self, folder: str, monitor: str = "val/loss") -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.best = float("inf")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """See ``Callback``."""
        value = float(trainer.callback_metrics.get(self.monitor, float("inf")))
        if trainer.sanity_checking or not value < self.best:
            return
        self.best = value
        if trainer.is_global_zero:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(self.folder, FILES) as temporary:
                pl_module.state().save(temporary)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run continues with."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See ``Callback``."""
        self.best = state_dict["best"]


class StepCheckpoint(ModelCheckpoint):
    """Write ``last.ckpt`` every so many steps, after the validation of the same step.

    Lightning writes it before the validation, which a resumed run then skips: after a kill between
    the two, the best model could be missed.

    Args:
        folder: Folder of the checkpoint.
        every: Number of steps between checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(folder, "last", every_n_train_steps=every, enable_version_counter=False)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """See ``Callback``."""
        if not _validates_now(trainer):
            super().on_train_batch_end(trainer, *args)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """See ``Callback``."""
        if not trainer.sanity_checking:
            super().on_train_batch_end(trainer, pl_module, None, None, 0)


class StopOnSignal(Callback):
    """Write a checkpoint and stop after the step in which a signal was received.

    If a validation is due after that step, it runs first. With several processes, no checkpoint is
    written: they receive the signal in different steps and would wait for each other, so they stop
    at once, and resume from the previous checkpoint.

    Args:
        file: Path of the checkpoint, which is replaced.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """See ``Callback``."""
        if not _validates_now(trainer):
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """See ``Callback``."""
        if not trainer.sanity_checking:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        if (number := received_signal()) is None:
            return
        if trainer.world_size == 1:
            trainer.save_checkpoint(self.file)
        raise Stopped(number)


def _validates_now(trainer: L.Trainer) -> bool:
    """Return whether a validation follows the training batch that ends."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None  # set during training
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


class Throughput(Callback):
    """Log ``cells_per_second``, the core cells on all ranks over the last 20 steps."""

    _STEPS = 20

    def __init__(self) -> None:
        self._cells: list[Any] = []
        self._start = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Data, batch_idx: int
    ) -> None:
        """See ``Callback``."""
        self._cells.append(batch.core_mask.sum())
        if len(self._cells) < self._STEPS:
            return
        now = time.perf_counter()
        if self._start:
            cells = int(torch.stack(self._cells).sum()) * trainer.world_size
            pl_module.log("cells_per_second", cells / (now - self._start), prog_bar=True)
        self._cells, self._start = [], now
