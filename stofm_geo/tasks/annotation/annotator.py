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
# Inputs of a part of the training slice have similar distances under both standardisations; those
# of another patient are much further away under that of the training slice.
_MAX_DISTANCE_RATIO = 1.1
_EMPTY_NEIGHBORS = 6  # nearest cells whose mean a cell without counts gets


class Annotator(nn.Module):
    """Classifier of cells on top of a network, trained by :func:`stofm_geo.tasks.fine_tune`.

    For regions, the inputs of the classifier are the embedding and the means of embeddings over
    2, 4 and 8 hops; the largest number of hops is chosen on held-out cells. For cell types, they
    are the cell's features and its embedding, scaled by 0.1.

    For regions, inputs are standardised within each slice, which removes differences between
    slices. Trained on several slices, the classifier also takes the inputs standardised over all
    of them. Trained on one slice, it standardises a new slice by its own moments or by those of
    the training slice: it takes the latter if the predictions have lower entropy and the inputs
    are not further from the class centroids, since the mean of a part of a tissue is not that of
    the whole. For cell types, inputs are standardised over all slices, since the composition of a
    slice, and so its mean, differs between slices.

    Args:
        model: Fitted model; the annotator keeps it.
        classes: Names of the classes.
        task: ``"region"`` or ``"cell_type"``.
        absolute: Whether the classifier of regions also gets inputs standardised over all slices.
        mlp: Whether the classifier has a hidden layer (:mod:`stofm_geo.tasks.annotation.mlp`) or
            is linear.

    Attributes:
        classes: Names of the classes, in the order of the columns of the probabilities.
        task: ``"region"`` or ``"cell_type"``.
        record: Method, seed, slices, steps and held-out scores of the training.
        temperature: Divisor of the logits.

    Examples:
        >>> from stofm_geo import SToFM, datasets
        >>> from stofm_geo.tasks import fine_tune
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> model = SToFM().fit(adata, max_steps=2, progress=False)
        >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
        >>> annotator.task, annotator.classes[:2]
        ('cell_type', ['Astrocyte', 'Endothelial'])
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
        # Training replaces these weights; the random state of the caller stays as it was.
        with torch.random.fork_rng(devices=[]):
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
        return self.read.moments(values)

    @torch.no_grad()
    def probabilities(
        self, adata: AnnData | PreparedTissue, **keys: Unpack[SliceOptions]
    ) -> np.ndarray:
        """Return calibrated probabilities, ``[n, classes]`` float32; NaN for cells without a label.

        Args:
            adata: Slices, as for :meth:`predict`.
            keys: ``spatial_key``, ``slice_key``, ``layer`` and ``name``, as for :meth:`predict`.

        Raises:
            KeyError, TypeError, ValueError: Invalid input, as for :meth:`predict`.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> from stofm_geo.tasks import fine_tune
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
            >>> annotator.probabilities(adata).shape == (adata.n_obs, len(annotator.classes))
            True
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
        """Predict labels and write them into ``adata.obs[key_added]``, categorical, in place.

        Also written are ``obsm[key_added + "_probability"]``, the calibrated probabilities, float32
        ``[n, classes]``; ``uns[key_added]``, the class names in the order of these columns, and the
        method, temperature, version and weights hash; and ``uns[key_added + "_colors"]``, a colour
        for each class, which scanpy uses.
        Cells without counts (empty bins) get the mean probabilities of their nearest cells if
        regions are predicted; if cell types are predicted, they get no label, and NaN.

        Args:
            adata: Slices with raw counts in ``X`` (or the ``obsm`` vectors that the model was
                fitted on), or the result of :meth:`stofm_geo.SToFM.prepare`, whose keys are used.
            key_added: Column of ``obs`` that is written.
            min_probability: Cells whose most probable label is below this are ``"unassigned"``
                (default 0: none).
            spatial_key: Key in ``obsm`` of the positions.
            slice_key: Column of ``obs`` with the slice of each cell; ``None``: all cells are one
                slice.
            layer: Layer with the raw counts; ``None``: they are in ``X``.
            name: Name of ``adata`` in messages.

        Raises:
            KeyError, TypeError, ValueError: Invalid input, such as a slice of another organism or
                panel; the message names it.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> from stofm_geo.tasks import fine_tune
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
            >>> annotator.predict(adata)
            >>> adata.obs["stofm_label"].isin(annotator.classes).all().item()
            True
        """
        check_fraction("min_probability", min_probability)
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissue = self.model.prepared(adata, name=name, **keys)
        used = {"spatial_key": tissue.spatial_key, "slice_key": tissue.slice_key}
        check_target(tissue.adata, key_added, **used)
        probability, adata = self._probabilities(tissue), tissue.adata
        names = [*self.classes, Keys.UNASSIGNED] if min_probability else self.classes
        adata.obs[key_added] = pd.Categorical(
            label_of(probability, self.classes, min_probability), names
        )
        colors = default_colors(names)
        adata.uns[f"{key_added}_colors"] = [colors[name] for name in names]
        adata.obsm[f"{key_added}_probability"] = probability
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
        """Score predictions against known labels; ``adata`` is not changed.

        Args:
            adata: Slices with labels, otherwise as for :meth:`predict`.
            label_key: Column of ``obs`` with known labels; cells without a label are ignored and,
                if cell types are predicted, cells without counts.
            spatial_key: As for :meth:`predict`.
            slice_key: As for :meth:`predict`.
            layer: As for :meth:`predict`.
            name: As for :meth:`predict`.

        Returns:
            An :class:`~stofm_geo.tasks.metrics.EvaluationReport`, a dictionary.

        Raises:
            KeyError, ValueError: Invalid input, as for :meth:`predict`, or no labels.

        Warns:
            UserWarning: Some labels are not among the classes; their cells count as wrong.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> from stofm_geo.tasks import fine_tune
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
            >>> report = annotator.evaluate(adata, "cell_type")
            >>> report["cells"], report["unknown"], 0 <= report["accuracy"] <= 1
            (200, [], True)
        """
        truth = read_labels(adata, label_key, name)
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissue = self.model.prepared(adata, name=name, **keys)
        if unseen := unknown(truth, self.classes):
            warnings.warn(unknown_labels_message(unseen, name), stacklevel=2)
        probability = self._probabilities(tissue)
        predicted = ~np.isnan(probability[:, 0])
        known, best = pd.notna(truth) & predicted, probability.argmax(axis=1)
        if not known.any():
            raise ValueError(f"{name}: no cell with a label in obs[{label_key!r}] has counts")
        codes = codes_of(truth, [*self.classes, *unseen])
        return {
            **scores(truth[known], np.array(self.classes, dtype=object)[best[known]]),
            "calibration_error": calibration_error(
                probability[known], codes_of(truth[known], self.classes)
            ),
            "coherence": mean_coherence(best, tissue.slices),
            "coherence_of_truth": mean_coherence(codes, tissue.slices)
            if known[predicted].all()
            else None,
            "unknown": unseen,
        }

    @torch.no_grad()
    def _probabilities(self, tissue: PreparedTissue) -> np.ndarray:
        """Return probabilities of all cells, ``[n, classes]``.

        Cells without counts get the mean of their nearest cells for regions, and NaN for cell
        types: an empty bin still lies in a region, but has no cell type.
        """
        self.eval()
        probability = np.full((tissue.adata.n_obs, len(self.classes)), np.nan, dtype=np.float32)
        for subslices in tissue.subslices(self.model.state.encoder):
            tissue_slice, values = subslices.part, self.embed_slice(subslices)
            with error_context(tissue_slice.name):
                probability[tissue_slice.row] = self._logits(values).softmax(dim=1).cpu().numpy()
            if self.task == "region" and len(tissue_slice.empty):
                pos = check_positions(tissue.adata, tissue.spatial_key)
                rows = np.concatenate([tissue_slice.row, tissue_slice.empty])
                full = np.arange(len(rows)) < len(tissue_slice.row)
                adjacency = nearest_full(pos[rows], np.zeros(len(rows)), full, _EMPTY_NEIGHBORS)
                near = adjacency[~full][:, full]
                mean = near @ probability[tissue_slice.row] / near.sum(axis=1)
                probability[tissue_slice.empty] = np.asarray(mean)
        return probability

    def _logits(self, values: Tensor) -> Tensor:
        """Return the logits of a slice, ``[n, classes]``, from the better standardisation.

        That of the training slice is taken if the mean entropy of the probabilities is lower
        (the criterion of Tent: Wang et al., ICLR 2021, arXiv 2006.10726) and the inputs are not
        further from the class centroids, far from which a classifier is overconfident.
        """
        candidates = self.read.candidates(values)
        logits_of = [self.head(x) / self.temperature for x in candidates]
        for logits in logits_of:
            check_model_output(logits.cpu().numpy(), "annotator", "logits")
        if len(candidates) == 1:
            return logits_of[0]
        more_certain = _entropy(logits_of[1]) < _entropy(logits_of[0])
        close_enough = self.read.centroid_distance(
            candidates[1]
        ) < _MAX_DISTANCE_RATIO * self.read.centroid_distance(candidates[0])
        return logits_of[1] if more_certain and close_enough else logits_of[0]

    def save(self, folder: str | Path) -> None:
        """Write the annotator as ``config.json`` and ``model.safetensors``.

        Args:
            folder: Target folder; replaced as a whole if it holds only these files.

        Raises:
            FileExistsError: The folder holds other files.
            OSError: The folder cannot be written.

        Examples:
            >>> import os, tempfile
            >>> from stofm_geo import SToFM, datasets
            >>> from stofm_geo.tasks import fine_tune
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     annotator.save(folder)
            ...     print(sorted(os.listdir(folder)))
            ['config.json', 'model.safetensors']
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
        """Read a folder written by :meth:`save`.

        Args:
            folder: The folder.

        Returns:
            The annotator, on the CPU, in evaluation mode.

        Raises:
            ValueError: The folder holds no annotator, or is damaged.

        Examples:
            >>> import tempfile
            >>> from stofm_geo import Annotator, SToFM, datasets
            >>> from stofm_geo.tasks import fine_tune
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     annotator.save(folder)
            ...     loaded = Annotator.load(folder)
            >>> loaded.classes == annotator.classes
            True
        """
        located = in_folder(Path(folder), "Annotator.save or stofm-geo finetune")
        return files.read(*located, cls._from_config)

    @classmethod
    def _from_config(cls, config: dict[str, Any], stored: dict[str, Tensor]) -> Annotator:
        if "annotation" not in config:
            raise ValueError("it is a model without a classifier; fine-tune it on labels first")
        settings = checked(config["annotation"])
        rest = {name: value for name, value in stored.items() if not name.startswith(_HEAD)}
        head = {name[len(_HEAD) :]: v for name, v in stored.items() if name.startswith(_HEAD)}
        model = SToFM.from_state(ModelState.from_json(config["model"], rest))
        options = [settings[name] for name in ("classes", "task", "absolute", "mlp")]
        # Check the shapes before memory is allocated for them.
        with torch.device("meta"):
            check_shapes(cls(model, *options)._head_tensors(), head)
        annotator = cls(model, *options)
        annotator.record = settings["record"]
        annotator.load_state_dict(head, strict=False)
        if not annotator.temperature > 0:
            raise ValueError(f"temperature must be above 0; found {float(annotator.temperature)}")
        return annotator.eval()

    def _state(self) -> ModelState:
        """Return the state of the model with the fine-tuned network."""
        return replace(self.model.state, network=self.network)

    def _head_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the annotator without those of the network."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("network.")}

    def _tensors(self) -> dict[str, Tensor]:
        head = self._head_tensors().items()
        head_tensors = {_HEAD + name: value.contiguous().cpu() for name, value in head}
        return self._state().tensors() | head_tensors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task}, {len(self.classes)} classes)"


def _entropy(logits: Tensor) -> float:
    return float(Categorical(logits=logits).entropy().mean())
