"""Atomic reading and writing of checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from stofm_geo._files import atomic_path
from stofm_geo._replace import clear_leftovers


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes beside the target and renames in one step.

    Lightning writes to the temporary folder of the system. If that is on another disk, the file is
    then copied over the last checkpoint, and a kill or a full disk leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See ``CheckpointIO``.

        Raises:
            OSError: The file cannot be written.
        """
        written = io.BytesIO()
        torch.save(checkpoint, written)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(written.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See ``CheckpointIO``.

        Raises:
            ValueError: The file cannot be read.
        """
        # A finished run writes nothing more, and so would not remove its leftovers.
        clear_leftovers(Path(path).parent)
        try:
            return super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # zip archives, pickle and torch raise many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
            raise ValueError(
                f"{path}: cannot be read as a checkpoint ({reason}); remove it to start again"
            ) from error
