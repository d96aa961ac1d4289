"""Lightning's trainer, without its chatter, and the schedule that all training here goes by.

Imported by functions that train, not with the library: Lightning takes seconds.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng

from stofm_geo._logging import suppress_logger

_RISE = 2  # steps up to the highest rate, at least


@contextmanager
def seed_context(seed: int) -> Iterator[None]:
    """Seed all random generators in this context and restore their states afterwards."""
    with isolate_rng():
        L.seed_everything(seed, verbose=False)
        yield


def fit_module(
    module: L.LightningModule,
    loader: Any,
    *,
    max_steps: int,
    progress: bool,
    held_out: Any = None,
    check_every: int | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> None:
    """Train ``module`` in place on the best device there is.

    Args:
        module: What is trained.
        loader: Batches, ``max_steps`` of them or more.
        max_steps: Steps, unless a callback stops earlier.
        progress: Show a progress bar.
        held_out: Batches of validation, before training and every ``check_every`` steps.
        check_every: Steps from one validation to the next.
        callbacks: Lightning's.
    """
    bar = [RichProgressBar(leave=True)] if progress else []
    with suppress_logger("lightning.pytorch"), warnings.catch_warnings():
        # The loader's work is a few milliseconds a step; worker processes would cost more.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=1,
            limit_train_batches=max_steps,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[*callbacks, *bar],
            num_sanity_val_steps=-1,
            val_check_interval=check_every,
        )
        try:
            trainer.fit(module, loader, held_out)
        except SystemExit as stop:  # Lightning ends as if all were well, or with 1
            if isinstance(stop, SIGTERMException):
                raise SystemExit(128 + signal.SIGTERM) from None
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


def schedule_steps(module: L.LightningModule) -> int:
    """Return the number of steps of the schedule: those of the trainer, at least three."""
    return max(int(module.trainer.estimated_stepping_batches), _RISE + 1)


def adamw_one_cycle(module: L.LightningModule, rate: float, weight_decay: float) -> dict[str, Any]:
    """Return AdamW on all trainable weights with a one-cycle schedule over all trainer steps.

    Args:
        module: Fitted by a trainer that knows its number of steps.
        rate: Peak learning rate.
        weight_decay: Of AdamW.

    Returns:
        What ``LightningModule.configure_optimizers`` is to return.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=weight_decay)
    # The rise ends at step ``share * steps - 1``, and divides by it.
    steps = schedule_steps(module)
    share = 0.1 if 0.1 * steps > 1 else _RISE / steps
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=share
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
