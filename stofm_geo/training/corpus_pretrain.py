"""Pre-training on a corpus: the network of its genes, validation, and exact resumption."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torchmetrics import MeanMetric

from stofm_geo._validation import check_positive
from stofm_geo._version import __version__
from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.state import ModelState, TrainingRecord
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.networks.warm_start import warm_start
from stofm_geo.training.corpus_data import CorpusDataModule
from stofm_geo.training.effective_rank import EffectiveRank
from stofm_geo.training.pretrain import Pretraining
from stofm_geo.training.trainer import schedule_steps

DEFAULTS = SToFMConfig(encoder="panel", organism="auto", n_components=50)
_SETTINGS = "stofm_settings"  # in a checkpoint
_COLLAPSED = 0.5  # of the first effective rank


class CorpusPretraining(Pretraining):
    """:class:`Pretraining` on a :class:`~stofm_geo.training.corpus_data.CorpusDataModule`.

    The network is made when the corpus is known. Dropout is drawn from the seed and the number
    of the step alone, and masks from the seed, the epoch and the sub-slice, so that a run that is
    killed and goes on from a checkpoint ends with the same weights as one that was not.

    Logged: ``niche_loss`` and ``distance_loss``, and under ``val/`` those of the slices held out,
    each beside what plain guessing gives (``..._plain``), with the effective rank and the deviation
    of embeddings (:class:`~stofm_geo.training.effective_rank.EffectiveRank`). A warning is given
    when the rank falls below half of the first.

    Args:
        config: Configuration of the network and the masking; its ``encoder`` is ``"panel"``.
        freeze_encoder_steps: For so many steps the cell encoder stays as it starts; then all are
            trained (default 0: all from the start).
        seed: Of weights and dropout.

    Raises:
        TypeError: ``freeze_encoder_steps`` is no whole number.
        ValueError: It is below zero, or the encoder is another.
    """

    def __init__(
        self,
        config: SToFMConfig = DEFAULTS,
        freeze_encoder_steps: int = 0,
        seed: int = 0,
    ) -> None:
        check_positive("freeze_encoder_steps", freeze_encoder_steps, whole=True, or_zero=True)
        if config.encoder != "panel":
            raise ValueError(f"a corpus needs encoder='panel'; found {config.encoder!r}")
        super().__init__(None, config)  # type: ignore[arg-type]  # see configure_model
        self.freeze_encoder_steps = freeze_encoder_steps
        self.seed = seed
        self.first_rank: float | None = None
        names = ("niche_loss", "niche_loss_plain", "distance_loss", "distance_loss_plain")
        self.held_out: Any = nn.ModuleDict({name: MeanMetric() for name in names})
        self.spread = EffectiveRank(config.out_channels)

    @property
    def data(self) -> CorpusDataModule:
        """The corpus that is trained on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def encoder(self) -> PanelEncoder:
        """The encoder of the network."""
        assert self.network.encoder is not None  # see configure_model
        return self.network.encoder

    def configure_model(self) -> None:
        """Make the network of the corpus' genes; the seed makes it the same on every rank."""
        if self.network is not None:
            return
        corpus = self.data.train
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            encoder = PanelEncoder(
                corpus.genes,
                out_channels=self.config.out_channels // 3,
                n_components=self.config.n_components,
                technologies=corpus.technologies,
            )
            self.network = SToFMNetwork(encoder.out_channels, self.config, encoder)
            if self.trainer.ckpt_path is None:
                warm_start(encoder, corpus.components())

    def setup(self, stage: str) -> None:
        """Give the data their masking.

        Raises:
            ValueError: The corpus was cut with other settings.
        """
        data = self.data
        if told := _differing(data.train.settings, self.config.subslice_options):
            raise ValueError(
                f"{data.train.folder}: the corpus was built with other settings ({told}); use "
                "those, or build another"
            )
        data.train.transform = data.val.transform = self.objectives.masking

    def on_train_start(self) -> None:
        """Refuse to go on to another number of steps than was planned.

        Raises:
            ValueError: The learning rate of the checkpoint goes by so many steps, and not by more.
        """
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler  # one cycle
        planned = scheduler.total_steps
        steps = schedule_steps(self)
        if planned != steps:
            raise ValueError(
                f"the checkpoint's learning rate goes by {planned} steps, and max_steps is {steps} "
                "now; go on with as many, or name another folder"
            )

    def on_train_batch_start(self, batch: Data, batch_idx: int) -> None:
        """See ``LightningModule``."""
        step, world = self.global_step, self.trainer.world_size
        torch.manual_seed((self.seed * 1_000_003 + step) * world + self.global_rank)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """See ``LightningModule``."""
        if self.global_step < self.freeze_encoder_steps:
            for weight in self.encoder.parameters():
                weight.grad = None

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        """See ``LightningModule``."""
        z, pair = self.network(batch)
        for name, loss in (
            ("niche_loss", self.objectives.niche_loss(self.network, batch, z)),
            ("distance_loss", self.objectives.distance_loss(self.network, batch, pair)),
        ):
            if loss.count > 0:
                self.held_out[name].update(loss.error / loss.count, loss.count)
                self.held_out[f"{name}_plain"].update(loss.baseline / loss.count, loss.count)
        self.spread.update(z[batch.core_mask])

    def on_validation_epoch_end(self) -> None:
        """See ``LightningModule``."""
        found = {name: metric.compute() for name, metric in self.held_out.items()}
        found["loss"] = found["niche_loss"] + self.config.distance_weight * found["distance_loss"]
        found |= self.spread.compute()
        self.log_dict({f"val/{name}": value for name, value in found.items()}, prog_bar=False)
        for metric in (*self.held_out.values(), self.spread):
            metric.reset()
        rank = float(found["effective_rank"])
        self.first_rank = self.first_rank or rank
        if rank < _COLLAPSED * self.first_rank and self.trainer.is_global_zero:
            warnings.warn(
                f"embeddings collapse: their effective rank fell from {self.first_rank:.1f} to "
                f"{rank:.1f}; lower the learning rate, or raise the share that is hidden",
                stacklevel=2,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See ``LightningModule``."""
        checkpoint[_SETTINGS] = asdict(self.config)
        checkpoint["first_rank"] = self.first_rank

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other settings.

        Raises:
            ValueError: It is another architecture's; the message names what differs.
        """
        if told := _differing(checkpoint.get(_SETTINGS, {}), asdict(self.config)):
            raise ValueError(
                f"the checkpoint is of other settings ({told}); use those, or another folder"
            )
        shape = checkpoint["state_dict"]["network.encoder.embedding"].shape
        if shape != self.encoder.embedding.shape:
            raise ValueError(
                f"the checkpoint knows {shape[0]} genes, the corpus has "
                f"{len(self.encoder.genes)}; go on with the corpus it was made with, "
                "or name another folder"
            )
        self.first_rank = checkpoint["first_rank"]

    def state(self) -> ModelState:
        """Return what was trained, as a model to save or to embed with."""
        losses = {
            name.removeprefix("val/"): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        record = TrainingRecord(
            seed=self.seed,
            steps=self.global_step,
            version=__version__,
            corpus=self.data.train.checksum,
            **losses,  # type: ignore[typeddict-item]
        )
        return ModelState(self.config, self.network, self.encoder, record)


def _differing(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return the settings that differ from ``here``, for a message; ``""`` if none do."""
    names = [name for name in here if there.get(name) != here[name]]
    return ", ".join(f"{n}={there.get(n)!r} there, {here[n]!r} here" for n in names)
