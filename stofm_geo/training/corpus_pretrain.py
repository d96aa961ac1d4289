"""Pre-training on a corpus, with validation and exact resumption."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torchmetrics import MeanMetric

from stofm_geo._validation import check_positive, preview
from stofm_geo._version import __version__
from stofm_geo.genes import PanelEncoder
from stofm_geo.genes.gene_table import ORGANISMS
from stofm_geo.networks import make_network
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.state import ModelState, TrainingRecord
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

    The network is created by :meth:`configure_model`, since its genes are those of the corpus.
    Random numbers of dropout depend only on the seed and the step, those of masks on the seed, the
    epoch and the sub-slice, so that a killed run that resumes from a checkpoint gives the same
    weights as an uninterrupted one.

    Logged are the losses (``niche_loss`` and ``distance_loss``, or ``molecule_loss``) and, under
    ``val/``, the losses on held-out slices, the same losses of a baseline (``..._plain``), and the
    effective rank and standard deviation of the embeddings
    (:class:`~stofm_geo.training.effective_rank.EffectiveRank`).

    Args:
        config: Configuration of the network and the masking, with ``encoder="panel"``.
        freeze_encoder_steps: Number of steps in which the cell encoder is frozen (default 0).
        seed: Random seed of weights and dropout.

    Raises:
        TypeError: ``freeze_encoder_steps`` is not an integer.
        ValueError: ``freeze_encoder_steps`` is negative, or the encoder is not ``"panel"``.

    Warns:
        UserWarning: In validation, the effective rank fell below half of its first value.
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
        config = replace(config, objectives=config.objectives or "niches")
        super().__init__(None, config)  # type: ignore[arg-type]  # see configure_model
        self.freeze_encoder_steps = freeze_encoder_steps
        self.seed = seed
        self.first_rank: float | None = None
        names = [f"{name}{end}" for name in self.objectives.losses for end in ("", "_plain")]
        self.held_out: Any = nn.ModuleDict({name: MeanMetric() for name in names})
        self.spread = EffectiveRank(config.out_channels)

    @property
    def data(self) -> CorpusDataModule:
        """Return the data module of the corpus."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def encoder(self) -> PanelEncoder:
        """Return the encoder of the network."""
        assert self.network.encoder is not None  # see configure_model
        return self.network.encoder

    def configure_model(self) -> None:
        """Create the network for the genes of the corpus, the same on every rank."""
        if self.network is not None:
            return
        corpus = self.data.train
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            encoder = PanelEncoder(
                corpus.genes,
                out_channels=self.config.feature_channels,
                n_components=self.config.n_components,
                technologies=corpus.technologies,
                molecules=self.config.objectives == "molecules",
            )
            self.network = make_network(self.config, encoder)
            if self.trainer.ckpt_path is None:
                warm_start(encoder, corpus.components())

    def setup(self, stage: str) -> None:
        """Set the masking as transform of the data sets.

        Raises:
            ValueError: The corpus was built with other settings.
        """
        data = self.data
        held_out = data.train.settings.get("molecules", False)
        if held_out != (self.config.objectives == "molecules"):
            built, objectives = ("with", "molecules") if held_out else ("without", "niches")
            raise ValueError(
                f"{data.train.folder}: the corpus was built {built} --molecules, and objectives is "
                f"{self.config.objectives!r}; set --model.config.objectives {objectives}, or build "
                "another"
            )
        if differing := _differing(data.train.settings, self.config.subslice_options):
            raise ValueError(
                f"{data.train.folder}: the corpus was built with other settings ({differing}); use "
                "those, or build another"
            )
        genes, organism = data.train.genes, self.config.organism
        if organism is not None and not any(gene.startswith(ORGANISMS["human"]) for gene in genes):
            raise ValueError(
                f"{data.train.folder}: its genes are no human Ensembl ids ({preview(genes[:4])}), "
                f"but a model with organism={organism!r} looks for these in each slice; set "
                "--model.config.organism null, or build the corpus without --organism none"
            )
        data.train.transform = self.objectives.masking
        data.val.transform = self.objectives.held_out

    def on_train_start(self) -> None:
        """Check that a resumed run has the number of steps of its schedule.

        Raises:
            ValueError: The learning-rate schedule of the checkpoint has another number of steps.
        """
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler  # one cycle
        planned = scheduler.total_steps
        steps = schedule_steps(self)
        if planned != steps:
            raise ValueError(
                f"the learning-rate schedule of the checkpoint has {planned} steps, but max_steps "
                f"is {steps}; set max_steps={planned}, or name another folder"
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
        for name, compute in self.objectives.losses.items():
            loss = compute(self.network, batch, z, pair)
            if loss.count > 0:
                self.held_out[name].update(loss.error / loss.count, loss.count)
                self.held_out[f"{name}_plain"].update(loss.baseline / loss.count, loss.count)
        self.spread.update(z[batch.core_mask])

    def on_validation_epoch_end(self) -> None:
        """See ``LightningModule``."""
        values = {name: metric.compute() for name, metric in self.held_out.items()}
        weights = self.objectives.weights
        values["loss"] = sum(
            weights.get(name, 1.0) * values[name] for name in self.objectives.losses
        )
        values |= self.spread.compute()
        self.log_dict({f"val/{name}": value for name, value in values.items()}, prog_bar=False)
        for metric in (*self.held_out.values(), self.spread):
            metric.reset()
        rank = float(values["effective_rank"])
        self.first_rank = self.first_rank or rank
        if rank < _COLLAPSED * self.first_rank and self.trainer.is_global_zero:
            warnings.warn(
                f"embeddings collapse: their effective rank fell from {self.first_rank:.1f} to "
                f"{rank:.1f}; lower the learning rate, or raise mask_ratio",
                stacklevel=2,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See ``LightningModule``."""
        checkpoint[_SETTINGS] = asdict(self.config)
        checkpoint["first_rank"] = self.first_rank

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint has the settings and genes of this run.

        Raises:
            ValueError: They differ; the message names how.
        """
        if differing := _differing(checkpoint.get(_SETTINGS, {}), asdict(self.config)):
            raise ValueError(
                f"the checkpoint has other settings ({differing}); use those, or name another "
                "folder"
            )
        shape = checkpoint["state_dict"]["network.encoder.embedding"].shape
        if shape != self.encoder.embedding.shape:
            raise ValueError(
                f"the checkpoint has {shape[0]} genes, and the corpus "
                f"{len(self.encoder.genes)}; resume with the corpus of the checkpoint, or name "
                "another folder"
            )
        self.first_rank = checkpoint["first_rank"]

    def state(self) -> ModelState:
        """Return the trained model."""
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


def _differing(stored: dict[str, Any], current: dict[str, Any]) -> str:
    """Return the settings that differ from ``here``, for a message; ``""`` if none do."""
    names = [name for name in current if stored.get(name) != current[name]]
    return ", ".join(f"{n}={stored.get(n)!r} there, {current[n]!r} here" for n in names)
