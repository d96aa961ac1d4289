"""Checkpoints of a trainer, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from stofm_geo._files import atomic_path
from stofm_geo._replace import clear_leftovers


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside where they go, and take that name at once.

    Lightning writes them in the system's temporary folder. Where that is on another disk they are
    then copied over the last one, and a kill or a full disk meanwhile leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See ``CheckpointIO``.

        Raises:
            OSError: It cannot be written.
        """
        written = io.BytesIO()
        torch.save(checkpoint, written)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(written.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See ``CheckpointIO``.

        Raises:
            ValueError: It cannot be read.
        """
        # A run that has ended already writes no more, which would remove them.
        clear_leftovers(Path(path).parent)
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # of zip archives, pickle and torch, a dozen kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
            raise ValueError(
                f"{path}: cannot be read as a checkpoint ({reason}); remove it to start anew"
            ) from error
