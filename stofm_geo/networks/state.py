"""State of a fitted model: configuration, network, encoder and record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from stofm_geo._hash import weights_hash
from stofm_geo._weights import check_layers, check_shapes
from stofm_geo.genes import CellFeatures
from stofm_geo.genes.encoders import from_state
from stofm_geo.networks import files, make_network
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork

_ENCODER = "features."  # prefix of the names of encoder arrays


class TrainingRecord(TypedDict, total=False):
    """How weights were trained; written into ``config.json``.

    Attributes:
        seed: Random seed.
        steps: Number of training steps.
        best_step: Step whose weights were kept; 0 is before training.
        slices: Number of training slices.
        cells: Number of training cells.
        molecule_loss: Mean squared error of the components of held-out molecules.
        molecule_loss_of_averages: The same of the best linear prediction from neighbour averages.
        molecule_loss_of_mean: The same of the mean over all cells.
        niche_loss: Mean niche loss on held-out masks, or on held-out slices of a corpus.
        niche_loss_of_averages: Niche loss of the baseline, neighbour averages.
        distance_loss: Mean distance loss.
        distance_loss_as_seen: Distance loss of the baseline, the perturbed positions.
        version: Version of this library, if trained on a corpus.
        corpus: Checksum of the corpus.
    """

    seed: int
    steps: int
    best_step: int
    slices: int
    cells: int
    molecule_loss: float
    molecule_loss_of_averages: float
    molecule_loss_of_mean: float
    niche_loss: float
    niche_loss_of_averages: float
    distance_loss: float
    distance_loss_as_seen: float
    version: str
    corpus: str


@dataclass
class ModelState:
    """A fitted model: configuration, network, cell encoder, and how they were trained.

    Attributes:
        config: Configuration of the network and its training.
        network: The network.
        encoder: The encoder from counts (or ``obsm`` vectors) to features.
        record: How the weights were trained: seed, steps, slices, losses.
    """

    config: SToFMConfig
    network: SToFMNetwork
    encoder: CellFeatures
    record: TrainingRecord

    def tensors(self) -> dict[str, Tensor]:
        """Return all arrays by name: those of the network and of the encoder."""
        tensors = {
            name: value.contiguous().cpu() for name, value in self.network.state_dict().items()
        }
        _, arrays = self.encoder.state()
        return tensors | {
            _ENCODER + name: torch.from_numpy(array) for name, array in arrays.items()
        }

    def weights_hash(self) -> str:
        """Return the SHA-256 over names, shapes and bytes of :meth:`tensors`."""
        return weights_hash(self.tensors())

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` needs beside :meth:`tensors`."""
        encoder, _ = self.encoder.state()
        return {
            "settings": asdict(self.config),
            "in_channels": self.network.in_channels,
            "features": encoder,
            "training": self.record,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], stored: dict[str, Tensor]) -> ModelState:
        """Make a state from :meth:`to_json` and :meth:`tensors`, the network in evaluation mode.

        Raises:
            KeyError, TypeError, RuntimeError, ValueError: The parts do not match.
        """
        if "annotation" in values:
            raise ValueError("it is an annotator; load it with stofm_geo.tasks.Annotator.load")
        config = SToFMConfig(**values["settings"])
        record = _checked_record(values["training"])
        prefix = len(_ENCODER)
        arrays = {k[prefix:]: v.numpy() for k, v in stored.items() if k.startswith(_ENCODER)}
        weights = {name: value for name, value in stored.items() if not name.startswith(_ENCODER)}
        check_layers("num_layers", config.num_layers, weights, r"transformer\.blocks\.(\d+)\.")

        def build() -> tuple[CellFeatures, SToFMNetwork]:
            encoder = from_state(values["features"], arrays)
            if encoder.out_channels != values["in_channels"]:
                raise ValueError(
                    f"features have {encoder.out_channels} columns, the network takes "
                    f"{values['in_channels']!r}"
                )
            return encoder, make_network(config, encoder)

        with torch.device("meta"):
            check_shapes(build()[1].state_dict(), weights)
        with torch.random.fork_rng(devices=[]):  # replaced below; keeps the random state
            encoder, network = build()
        network.load_state_dict(weights)
        return cls(config, network.eval(), encoder, record)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into an existing folder."""
        files.write(self.to_json(), self.tensors(), folder)

    @classmethod
    def load(cls, config_file: Path, weights_file: Path) -> ModelState:
        """Read the files of :meth:`save`.

        Raises:
            ValueError: The files are not a model of this library, are damaged, or do not match.
        """
        return files.read(config_file, weights_file, cls.from_json)


def _checked_record(record: Any) -> TrainingRecord:
    if not isinstance(record, dict) or type(record.get("seed")) is not int:
        raise ValueError("training must name the seed")
    return cast(TrainingRecord, record)
