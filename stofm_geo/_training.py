"""Lightning's trainer, with a progress bar and without its chatter."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from stofm_geo._quiet import quiet


def run(module: L.LightningModule, loader: Any, *, max_steps: int, progress: bool) -> None:
    """Train ``module`` in place for ``max_steps`` steps on the best device there is."""
    with quiet("lightning.pytorch"), warnings.catch_warnings():
        # The loader's work is a few milliseconds a step; worker processes would cost more.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        L.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=1,
            limit_train_batches=max_steps,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar(leave=True)] if progress else None,
        ).fit(module, loader)
