"""Annotator: a network and a classifier that predict regions or cell types."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn
from torch.distributions import Categorical
from torch_geometric.data import Data

from stofm_geo._anndata_checks import check_positions, check_target
from stofm_geo._colors import default_colors
from stofm_geo._files import atomic_folder
from stofm_geo._hash import weights_hash
from stofm_geo._keys import Keys
from stofm_geo._validation import check_fraction, check_model_output, error_context
from stofm_geo._version import __version__
from stofm_geo._weights import check_shapes
from stofm_geo.data import SubSliceDataset
from stofm_geo.models.hub import in_folder
from stofm_geo.models.prepare import PreparedTissue, SliceKeys, SliceOptions
from stofm_geo.models.stofm import SToFM
from stofm_geo.networks import files
from stofm_geo.networks.state import ModelState
from stofm_geo.networks.stofm import SToFMNetwork
from stofm_geo.tasks._empty import nearest_full
from stofm_geo.tasks.annotation.calibration import label_of
from stofm_geo.tasks.annotation.mlp import Classifier
from stofm_geo.tasks.annotation.neighborhoods import cells, check_task, embed_slice, multi_hop_means
from stofm_geo.tasks.annotation.record import AnnotationRecord, checked
from stofm_geo.tasks.annotation.standardization import FeatureStandardizer, Moments
from stofm_geo.tasks.labels import codes_of, read_labels, unknown, unknown_labels_message
from stofm_geo.tasks.metrics import EvaluationReport, calibration_error, mean_coherence, scores

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HEAD = "annotation."
# A part of a slice lies as far from the classes either way; one of another patient, much further.
_NO_FURTHER = 1.1
_NEAR = 6  # cells that stand in for one without counts


class Annotator(nn.Module):
    """Classifier of cells on a network; made by :func:`stofm_geo.tasks.fine_tune`.

    The inputs of the classifier are, for regions, the embedding and the means of embeddings over
    2, 4 and 8 hops, or as few of them as are best on held-out cells; for cell types, the cell's
    features and, scaled by 0.1, its embedding.

    For regions, inputs are standardised within each slice, which removes differences between
    slices. Trained on several slices, the classifier also takes the inputs standardised over all
    of them. Trained on one slice, it standardises a new slice by its own moments or by those of
    the training slice: it takes the latter if the predictions have lower entropy and the inputs
    are not further from the class centroids, since the mean of a part of a tissue is not that of
    the whole. For cell types, inputs are standardised over all slices, since the composition of a
    slice, and so its mean, differs between slices.

    Args:
        model: A fitted model; it becomes a part of the annotator.
        classes: Names of labels.
        task: ``"region"`` or ``"cell_type"``.
        absolute: Whether the classifier of regions also sees what differs between slices.
        mlp: Whether it has a hidden layer (:mod:`stofm_geo.tasks.annotation.mlp`), or is linear.

    Attributes:
        classes, task: As given.
        record: Method, seed, slices, steps and held-out scores of the training.
        temperature: Logits are divided by it.
    """

    temperature: Tensor

    def __init__(
        self,
        model: SToFM,
        classes: list[str],
        task: str,
        absolute: bool,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        check_task(task)
        self.model = model
        self.network: SToFMNetwork = model.state.network
        self.classes, self.task, self.absolute = list(classes), task, absolute
        self.record: AnnotationRecord = {}
        self.read = FeatureStandardizer(self.network, task, absolute, len(classes))
        self.register_buffer("temperature", torch.ones(()))
        make = Classifier if mlp else nn.Linear
        with torch.random.fork_rng(devices=[]):  # these are replaced: the user's draws go on
            self.mlp, self.head = mlp, make(len(self.read.scale), len(classes))

    def embed_slice(self, tissue: SubSliceDataset) -> Tensor:
        """Return vectors of all cells of a slice and their multi-hop means, ``[n, D]``."""
        vectors = embed_slice(self.network, tissue, self.task)
        return torch.cat([vectors, multi_hop_means(vectors, tissue, self.task)], dim=1)

    def vectors(self, subslice: Data) -> Tensor:
        """Return the vectors of a sub-slice's core cells, ``[n, width]``, with gradients."""
        return cells(self.network, subslice, self.task)

    def moments(self, values: Tensor) -> Moments:
        """Return means and deviations of a slice's vectors ``[n, D]``."""
        return Moments.from_values(values)

    @torch.no_grad()
    def probabilities(
        self, adata: AnnData | PreparedTissue, **keys: Unpack[SliceOptions]
    ) -> np.ndarray:
        """Return calibrated probabilities, ``[n, classes]`` float32; NaN for cells without a label.

        Args:
            adata: As for :meth:`predict`.
            keys: ``spatial_key``, ``slice_key``, ``layer`` and ``name``, as there.
        """
        return self._probabilities(self.model.prepared(adata, **keys))

    def predict(
        self,
        adata: AnnData | PreparedTissue,
        *,
        key_added: str = Keys.LABEL,
        min_probability: float = 0.0,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        name: str = "AnnData",
    ) -> None:
        """Write labels into ``adata.obs[key_added]``, categorical, in place.

        ``obsm[key_added + "_probability"]`` has the calibrated probabilities of all labels, float32
        ``[n, classes]``; ``uns[key_added]`` their names in this order, and how they were made;
        ``uns[key_added + "_colors"]`` a colour for each, where scanpy looks for it.
        Cells without counts (empty bins) get the mean of the probabilities of their nearest cells
        where regions are predicted; where cell types are, they get no label, and NaN.

        Args:
            adata: Raw counts in ``X`` (or the ``obsm`` vectors the model was fitted on); or of
                :meth:`stofm_geo.SToFM.prepare`, then the keys are those given there.
            key_added: Column of ``obs``.
            min_probability: Cells whose most probable label is below this are ``"unassigned"``
                (default 0: none).
            spatial_key: Key in ``obsm`` of the positions.
            slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one.
            layer: Layer with the raw counts; ``None``: they are in ``X``.
            name: What messages call ``adata``.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit, a slice of another organism or
                panel among it; the message says what.
        """
        check_fraction("min_probability", min_probability)
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissue = self.model.prepared(adata, name=name, **keys)
        read = {"spatial_key": tissue.spatial_key, "slice_key": tissue.slice_key}
        check_target(tissue.adata, key_added, **read)
        found, adata = self._probabilities(tissue), tissue.adata
        names = [*self.classes, Keys.UNASSIGNED] if min_probability else self.classes
        adata.obs[key_added] = pd.Categorical(label_of(found, self.classes, min_probability), names)
        colors = default_colors(names)
        adata.uns[f"{key_added}_colors"] = [colors[name] for name in names]
        adata.obsm[f"{key_added}_probability"] = found
        adata.uns[key_added] = {
            "classes": np.array(self.classes),
            "task": self.task,
            "min_probability": float(min_probability),
            "temperature": float(self.temperature),
            "method": self.record["method"],
            "version": __version__,
            "weights_sha256": weights_hash(self._tensors()),
        }

    def evaluate(
        self,
        adata: AnnData,
        label_key: str,
        *,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        name: str = "AnnData",
    ) -> EvaluationReport:
        """Compare with known labels; ``adata`` stays as it is.

        Args:
            adata: As for :meth:`predict`, with labels.
            label_key: Column of ``obs`` with known labels; cells without one are left out, and,
                where cell types are predicted, those without counts.
            spatial_key, slice_key, layer, name: As for :meth:`predict`.

        Returns:
            An :class:`~stofm_geo.tasks.metrics.EvaluationReport`, a dictionary.

        Raises:
            KeyError, ValueError: As :meth:`predict`, or there are no labels.

        Warns:
            UserWarning: There are labels that were never learned; their cells count as wrong.
        """
        truth = read_labels(adata, label_key, name)
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissue = self.model.prepared(adata, name=name, **keys)
        if strange := unknown(truth, self.classes):
            warnings.warn(unknown_labels_message(strange, name), stacklevel=2)
        found = self._probabilities(tissue)
        told = ~np.isnan(found[:, 0])
        known, best = pd.notna(truth) & told, found.argmax(axis=1)
        if not known.any():
            raise ValueError(f"{name}: no cell with a label in obs[{label_key!r}] has counts")
        every, parts = codes_of(truth, [*self.classes, *strange]), tissue.slices
        return {
            **scores(truth[known], np.array(self.classes, dtype=object)[best[known]]),
            "calibration_error": calibration_error(
                found[known], codes_of(truth[known], self.classes)
            ),
            "coherence": mean_coherence(best, parts),
            "coherence_of_truth": mean_coherence(every, tissue.slices)
            if known[told].all()
            else None,
            "unknown": strange,
        }

    @torch.no_grad()
    def _probabilities(self, tissue: PreparedTissue) -> np.ndarray:
        """Of cells without counts: their nearest cells' mean for regions, and NaN for cell types.

        A bin of a region without counts is of the region; a cell type is of cells.
        """
        self.eval()
        found = np.full((tissue.adata.n_obs, len(self.classes)), np.nan, dtype=np.float32)
        for subslices in tissue.subslices(self.model.state.encoder):
            part, values = subslices.part, self.embed_slice(subslices)
            with error_context(part.name):
                found[part.row] = self._logits(values).softmax(dim=1).cpu().numpy()
            if self.task == "region" and len(part.empty):
                pos = check_positions(tissue.adata, tissue.spatial_key)
                rows = np.concatenate([part.row, part.empty])
                full = np.arange(len(rows)) < len(part.row)
                near = nearest_full(pos[rows], np.zeros(len(rows)), full, _NEAR)[~full][:, full]
                mean = near @ found[part.row] / near.sum(axis=1)
                found[part.empty] = np.asarray(mean)
        return found

    def _logits(self, values: Tensor) -> Tensor:
        """Return the logits of a whole slice, ``[n, classes]``, from the better candidate.

        Standardised by the training slice, the mean entropy of the probabilities must be lower
        (the criterion of Tent: Wang et al., ICLR 2021, arXiv 2006.10726), and the inputs must be
        no further from the class centroids: far from them, a classifier is overconfident.
        """
        candidates = self.read.candidates(values)
        each = [self.head(x) / self.temperature for x in candidates]
        for logits in each:
            check_model_output(logits.cpu().numpy(), "annotator", "logits")
        if len(candidates) == 1:
            return each[0]
        surer = _entropy(each[1]) < _entropy(each[0])
        near = self.read.centroid_distance(
            candidates[1]
        ) < _NO_FURTHER * self.read.centroid_distance(candidates[0])
        return each[1] if surer and near else each[0]

    def save(self, folder: str | Path) -> None:
        """Write all that prediction needs: ``config.json`` and ``model.safetensors``.

        Args:
            folder: Made, or replaced whole if it holds nothing else.

        Raises:
            FileExistsError: It holds other files.
            OSError: It cannot be written.
        """
        config = {
            "model": self._state().to_json(),
            "annotation": {
                "classes": self.classes,
                "task": self.task,
                "absolute": self.absolute,
                "mlp": self.mlp,
                "record": self.record,
            },
        }
        with atomic_folder(folder, files.FILES) as temporary:
            files.write(config, self._tensors(), temporary)

    @classmethod
    def load(cls, folder: str | Path) -> Annotator:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: It is no such folder, or is damaged.
        """
        found = in_folder(Path(folder), "Annotator.save or stofm-geo finetune")
        return files.read(*found, cls._of)

    @classmethod
    def _of(cls, config: dict[str, Any], stored: dict[str, Tensor]) -> Annotator:
        if "annotation" not in config:
            raise ValueError("it embeds, and has learned no labels; fine-tune it first")
        own = checked(config["annotation"])
        rest = {name: value for name, value in stored.items() if not name.startswith(_HEAD)}
        head = {name[len(_HEAD) :]: v for name, v in stored.items() if name.startswith(_HEAD)}
        model = SToFM.from_state(ModelState.from_json(config["model"], rest))
        made = own["classes"], own["task"], own["absolute"], own["mlp"]
        # As many classes as there are weights of, which take as much memory.
        with torch.device("meta"):
            check_shapes(cls(model, *made)._own(), head)
        annotator = cls(model, *made)
        annotator.record = own["record"]
        annotator.load_state_dict(head, strict=False)
        if not annotator.temperature > 0:
            raise ValueError(f"the temperature is {float(annotator.temperature)}")
        return annotator.eval()

    def _state(self) -> ModelState:
        """Return the state of the model with the fine-tuned network."""
        return replace(self.model.state, network=self.network)

    def _own(self) -> dict[str, Tensor]:
        """Return the tensors that are not the model's."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("network.")}

    def _tensors(self) -> dict[str, Tensor]:
        own = {_HEAD + name: value.contiguous().cpu() for name, value in self._own().items()}
        return self._state().tensors() | own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task}, {len(self.classes)} classes)"


def _entropy(logits: Tensor) -> float:
    return float(Categorical(logits=logits).entropy().mean())
