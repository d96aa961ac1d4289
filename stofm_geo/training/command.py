"""Command line of pre-training on a corpus, based on ``LightningCLI``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stofm_geo._validation import check_positive, error_context

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

LAST = "last.ckpt"
_CONFIG = ("--config", "-c")
_PROGRAM = "stofm-geo pretrain"


def command(args: list[str]) -> LightningCLI:
    """Parse the command line and return trainer, model and data, without running anything.

    Args:
        args: Arguments of the command line.

    Raises:
        ImportError: jsonargparse or TensorBoard is not installed.
        FileNotFoundError, KeyError, TypeError, ValueError: A setting is unknown or invalid; the
            message names its file.
    """
    try:
        import jsonargparse  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"pre-training needs {error.name}; pip install 'stofm-geo[pretrain]'"
        ) from error
    from lightning.fabric.plugins import CheckpointIO
    from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from stofm_geo.training.callbacks import (
        SaveBestModel,
        StepCheckpoint,
        StopOnSignal,
        Throughput,
    )
    from stofm_geo.training.checkpoints import AtomicCheckpointIO
    from stofm_geo.training.corpus_data import CorpusDataModule
    from stofm_geo.training.corpus_pretrain import CorpusPretraining

    class Command(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_argument(
                "--folder",
                type=str,
                default="pretrained",
                help="Folder of checkpoints, logs and the best model.",
            )
            parser.add_argument(
                "--checkpoint_every", type=int, default=100, help="Steps between checkpoints."
            )
            parser.link_arguments("seed_everything", "model.seed")
            parser.link_arguments("seed_everything", "data.seed")

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            folder = Path(self._get(self.config_init, "folder"))
            every = self._get(self.config_init, "checkpoint_every")
            check_positive("checkpoint_every", every, whole=True)
            config = {
                **self._get(self.config_init, "trainer"),
                **kwargs,
                "default_root_dir": folder,
                "logger": [CSVLogger(folder, "csv"), TensorBoardLogger(folder, "tensorboard")],
            }
            callbacks = [
                StepCheckpoint(folder / "checkpoints", every),
                SaveBestModel(str(folder / "model")),
                LearningRateMonitor("step"),
                Throughput(),
                StopOnSignal(folder / "checkpoints" / LAST),
            ]
            plugins = config["plugins"] or []
            plugins = plugins if isinstance(plugins, list) else [plugins]
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                config["plugins"] = [*plugins, AtomicCheckpointIO()]
            if config["enable_progress_bar"] is not False:
                callbacks.append(RichProgressBar())
            return self._instantiate_trainer(config, callbacks)

    # Lightning warns of args; but sys.argv starts with the name of this subcommand.
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    with _naming_settings(args):
        return Command(
            CorpusPretraining,
            CorpusDataModule,
            args=args,
            run=False,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": _PROGRAM, "exit_on_error": False},
            trainer_defaults={
                "max_steps": 1000,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 10,
                "use_distributed_sampler": False,  # the data module shares out batches
            },
        )


@contextmanager
def _naming_settings(args: list[str]) -> Iterator[None]:
    """Prefix errors with the names of the settings files."""
    files = [file for option, file in pairwise(args) if option in _CONFIG]
    files += [word.split("=", 1)[1] for word in args if word.startswith(_CONFIG[0] + "=")]
    with error_context(", ".join(files)) if files else nullcontext():
        try:
            yield
        except Exception as error:  # jsonargparse, Lightning and PyTorch raise many types
            if type(error) in (FileNotFoundError, ImportError, KeyError, TypeError, ValueError):
                raise
            raise ValueError(f"{error}; {_PROGRAM} --help lists all settings") from error
