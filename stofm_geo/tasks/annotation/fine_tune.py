"""Fine-tuning on labels: the classifier, then optionally the network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stofm_geo._anndata_checks import numbered
from stofm_geo._keys import Keys
from stofm_geo._validation import check_positive
from stofm_geo.data import SubSliceDataset
from stofm_geo.models.prepare import PreparedTissue, SliceKeys, Tissues, list_of
from stofm_geo.models.stofm import SToFM
from stofm_geo.tasks.annotation import lora, mlp
from stofm_geo.tasks.annotation.annotator import Annotator
from stofm_geo.tasks.annotation.calibration import temperature
from stofm_geo.tasks.annotation.neighborhoods import check_task
from stofm_geo.tasks.annotation.probe import choose, fit_probe
from stofm_geo.tasks.annotation.record import HeldOutScores
from stofm_geo.tasks.labels import balanced, codes_of, training_labels
from stofm_geo.tasks.metrics import scores
from stofm_geo.tasks.splits import folds, tissue_groups

if TYPE_CHECKING:
    from stofm_geo.training.finetune import FineTuning

METHODS = ("probe", "mlp", "lora", "full")
_RATES = {"lora": 1e-3, "full": 1e-4}
_FOLDS = 4


def fine_tune(
    model: SToFM,
    adata: Tissues,
    label_key: str,
    method: str = "probe",
    *,
    task: str = "region",
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    layer: str | None = None,
    validation_fraction: float = 0.25,
    max_steps: int = 300,
    seed: int = 0,
    progress: bool = True,
    names: list[str] | None = None,
) -> Annotator:
    """Train an annotator on labelled slices; ``model`` is not changed.

    First, a logistic regression is fitted on the frozen network; its regularisation is chosen by
    cross-validation. With ``"mlp"``, its logits are mixed with those of a classifier with one
    hidden layer, with the weight that is best in cross-validation. With ``"lora"`` or ``"full"``,
    training continues end to end; the number of steps is chosen on held-out cells, then training
    is repeated with all labels. Classes are balanced. Held out are whole slices if four or more
    have labels, else contiguous blocks of at most 200 cells. The scores in ``record`` are those of
    held-out cells; they are slightly optimistic, since they were used for these choices. Test with
    :meth:`Annotator.evaluate` on unseen slices.

    Args:
        model: Fitted model.
        adata: One or several AnnData with labels, or results of :meth:`stofm_geo.SToFM.prepare`.
        label_key: Column of ``obs`` with labels; cells without one are ignored.
        method: ``"probe"`` (default) trains a linear classifier; ``"mlp"`` also one with a hidden
            layer of 64; ``"lora"`` the linear classifier and low-rank additions to the
            Transformer's linear layers (needs peft); ``"full"`` all weights.
        task: ``"region"`` (default) if labels describe the tissue around a cell, or
            ``"cell_type"`` if they describe the cell.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` with the slice of each cell; ``None``: each AnnData is one
            slice.
        layer: Layer with the raw counts; ``None``: they are in ``X``.
        validation_fraction: Fraction of the slices or blocks used for early stopping (default 0.25,
            a half at most).
        max_steps: Maximum number of training steps of ``"lora"`` and ``"full"``, one sub-slice
            each (default 300).
        seed: Random seed of the splits and of training.
        progress: Show a progress bar.
        names: Name of each AnnData in messages.

    Returns:
        The annotator, with a copy of the model, in evaluation mode.

    Raises:
        KeyError: A column is missing.
        TypeError: ``adata`` is not an AnnData, or an option has the wrong type.
        ValueError: There are no labels, only one, or nearly as many as cells; an option is out of
            range; or the input does not match the model.
        ImportError: ``method="lora"`` without peft.

    Examples:
        >>> from stofm_geo import SToFM, datasets, tasks
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> model = SToFM().fit(adata, max_steps=2, progress=False)
        >>> annotator = tasks.fine_tune(model, adata, "region", progress=False)
        >>> annotator.record["method"], annotator.record["labelled_cells"]
        ('probe', 200)
    """
    check_options(
        method, task=task, validation_fraction=validation_fraction, max_steps=max_steps, seed=seed
    )
    tissues = list_of(adata)
    if names is None:
        names = numbered("AnnData", len(tissues))
    adatas = [tissue.adata if isinstance(tissue, PreparedTissue) else tissue for tissue in tissues]
    labels, classes = training_labels(adatas, names, label_key)
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
    slices, codes = [], []
    for tissue, label, name in zip(tissues, labels, names, strict=True):
        code = codes_of(label, classes)
        prepared = model.prepared(tissue, name=name, **keys)
        for subslices in prepared.subslices(model.state.encoder):
            slice_codes = code[subslices.part.row]
            if (slice_codes >= 0).any():
                slices.append(subslices)
                codes.append(slice_codes)
    annotator = Annotator(model.copy(), classes, task, len(slices) > 1, method == "mlp")
    return _FineTuner(annotator, slices, codes, seed).fit(
        method, validation_fraction, max_steps, progress
    )


def check_options(
    method: str = "probe",
    *,
    task: str = "region",
    validation_fraction: float = 0.25,
    max_steps: int = 300,
    seed: int = 0,
) -> None:
    """Check options of :func:`fine_tune`, so that they can be checked before a long fit.

    Raises:
        TypeError, ValueError: An option has the wrong type or is out of range.
        ImportError: ``method="lora"`` without peft.
    """
    if method not in METHODS:
        raise ValueError(f"method must be {', '.join(map(repr, METHODS))}; found {method!r}")
    check_task(task)
    check_positive("max_steps", max_steps, whole=True)
    check_positive("seed", seed, whole=True, or_zero=True)
    check_positive("validation_fraction", validation_fraction)
    if validation_fraction > 0.5:
        raise ValueError(f"validation_fraction must be at most 0.5; found {validation_fraction!r}")
    if method == "lora":
        lora.check_installed()


class _FineTuner:
    """Training of an annotator on slices and their labels."""

    def __init__(
        self,
        annotator: Annotator,
        slices: list[SubSliceDataset],
        codes: list[np.ndarray],
        seed: int,
    ) -> None:
        self.annotator, self.slices, self.seed = annotator, slices, seed
        self.slice_codes, self.codes = codes, np.concatenate(codes)
        self.ends = np.cumsum([len(code) for code in codes])[:-1]
        embedded = [annotator.embed_slice(tissue) for tissue in slices]
        annotator.read.fit(torch.cat(embedded))
        inputs = [annotator.read(values, annotator.read.moments(values)) for values in embedded]
        self.x = torch.cat(inputs).numpy()
        self.groups = np.concatenate(tissue_groups([tissue.part.pos for tissue in slices]))

    def fit(
        self, method: str, validation_fraction: float, max_steps: int, progress: bool
    ) -> Annotator:
        annotator, count = self.annotator, len(self.annotator.classes)
        fold_masks = folds(self.groups, self.codes, _FOLDS, self.seed)
        # All methods start from the linear classifier, so that their gain can be measured.
        best, used = min(
            (
                (choose(self.x[:, used], self.codes, count, fold_masks, self.seed), used)
                # What is trained has to be read.
                for used in annotator.read.options(whole=method in _RATES)
            ),
            key=lambda option: option[0].loss,
        )
        self.strength, rows, logits, _ = best
        annotator.read.scale *= torch.from_numpy(used)
        self.x = self.x * used
        known = self.codes >= 0
        annotator.read.fit_centroids(
            torch.from_numpy(self.x[known]), torch.from_numpy(self.codes[known])
        )
        annotator.record = {
            "method": method,
            "seed": self.seed,
            "slices": len(self.slices),
            "labelled_cells": int(known.sum()),
            "strength": self.strength,
            "steps": 0,
            "held_out": self._scores(rows, logits),
        }
        if method == "mlp":
            before = annotator.record["held_out"]
            hidden_logits = mlp.out_of_fold(self.x, self.codes, count, fold_masks, self.seed)[rows]
            hidden_share = mlp.choose_share(logits, hidden_logits, self.codes[rows])
            logits = mlp.mix_logits(logits, hidden_logits, hidden_share)
            annotator.record |= {
                "hidden_share": hidden_share,
                "held_out_before": before,
                "held_out": self._scores(rows, logits),
            }
            self._fit_linear(np.ones(len(self.codes), dtype=bool))
            trained = mlp.fit_hidden(self.x[known], self.codes[known], count, self.seed)
            head: Any = annotator.head  # a mlp.Classifier
            head.hidden.load_state_dict(trained.state_dict())
            head.share.fill_(hidden_share)
        elif method != "probe":
            validation_mask = self._validation_mask(validation_fraction)
            steps, before, logits, rows = self._train_until_best(
                method, validation_mask, max_steps, progress
            )
            annotator.record |= {
                "steps": steps,
                "held_out_before": before,
                "held_out": self._scores(rows, logits),
            }
            self._fit_linear(np.ones_like(validation_mask))
            if steps:
                self._train(method, np.ones_like(validation_mask), None, steps, progress)
        else:
            self._fit_linear(np.ones(len(self.codes), dtype=bool))
        annotator.temperature.fill_(temperature(logits, self.codes[rows]))
        return annotator.eval()

    def _validation_mask(self, fraction: float) -> np.ndarray:
        """Return the validation cells ``[n]`` bool: the fold that leaves most classes to train on.

        Raises:
            ValueError: Every fold leaves a single class.
        """

        def classes_left(mask: np.ndarray) -> int:
            return len(np.unique(self.codes[~mask & (self.codes >= 0)]))

        mask = max(folds(self.groups, self.codes, round(1 / fraction), self.seed), key=classes_left)
        if classes_left(mask) < 2:
            raise ValueError(
                f"holding out any {fraction:.0%} of the tissue leaves a single label; give a "
                "smaller validation_fraction, label cells of more of the slice, or give more slices"
            )
        return mask

    def _scores(self, rows: np.ndarray, logits: np.ndarray) -> HeldOutScores:
        """Score held-out cells."""
        result = scores(self.codes[rows], logits.argmax(axis=1))
        return HeldOutScores(
            cells=result["cells"], accuracy=result["accuracy"], macro_f1=result["macro_f1"]
        )

    def _fit_linear(self, train_mask: np.ndarray) -> None:
        """Fit the linear classifier on the frozen network, to the cells in ``train_mask``."""
        rows = np.flatnonzero(train_mask & (self.codes >= 0))
        head = fit_probe(self.x[rows], self.codes[rows], len(self.annotator.classes), self.strength)
        linear = self.annotator.head
        linear = linear.linear if isinstance(linear, mlp.Classifier) else linear
        linear.load_state_dict(head._asdict())

    def _train_until_best(
        self, method: str, validation_mask: np.ndarray, max_steps: int, progress: bool
    ) -> tuple[int, HeldOutScores, np.ndarray, np.ndarray]:
        """Return the best number of steps, the scores before, and held-out logits and rows."""
        before = copy.deepcopy(self.annotator.state_dict())
        self._fit_linear(~validation_mask)
        module = self._train(method, ~validation_mask, validation_mask, max_steps, progress)
        self.annotator.load_state_dict(before)
        rows = np.flatnonzero(validation_mask & (self.codes >= 0))
        return module.best_step, self._scores(rows, module.first), module.best, rows

    def _train(
        self,
        method: str,
        train_mask: np.ndarray,
        validation_mask: np.ndarray | None,
        max_steps: int,
        progress: bool,
    ) -> FineTuning:
        from stofm_geo.training.finetune import FineTuning, train
        from stofm_geo.training.trainer import seed_context

        with seed_context(self.seed):
            if method == "lora":
                self.annotator.network = lora.add_adapters(self.annotator.network)
            module = FineTuning(
                self.annotator,
                self.slices,
                [np.where(s, c, -1) for s, c in self._split(train_mask)],
                None
                if validation_mask is None
                else [np.where(s, c, -1) for s, c in self._split(validation_mask)],
                balanced,
                rate=_RATES[method],
                strength=self.strength,
            )
            train(module, max_steps, progress)
            self.annotator.cpu()
            if method == "lora":
                self.annotator.network = lora.merge_adapters(self.annotator.network)
        return module

    def _split(self, mask: np.ndarray) -> Any:
        return zip(np.split(mask, self.ends), self.slice_codes, strict=True)
