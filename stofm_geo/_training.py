"""Lightning's trainer, without its chatter, and the schedule that all training here goes by."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import torch
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


def one_cycle(module: L.LightningModule, rate: float, weight_decay: float) -> dict[str, Any]:
    """AdamW of all that is trained, its rate up to ``rate`` and down over all steps of the trainer.

    Args:
        module: Fitted by a trainer that knows its number of steps.
        rate: The highest.
        weight_decay: Of AdamW.

    Returns:
        What ``LightningModule.configure_optimizers`` is to return.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=int(module.trainer.estimated_stepping_batches), pct_start=0.1
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
