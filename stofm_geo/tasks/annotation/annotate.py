"""Label transfer from labelled slices or a fitted annotator."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from anndata import AnnData

from stofm_geo._anndata_checks import check_anndata, check_anndatas, check_target, numbered
from stofm_geo._keys import Keys
from stofm_geo._validation import check_fraction, preview
from stofm_geo.models.prepare import SliceKeys
from stofm_geo.models.stofm import SToFM
from stofm_geo.tasks.annotation.annotator import Annotator
from stofm_geo.tasks.annotation.fine_tune import check_options, fine_tune
from stofm_geo.tasks.labels import training_labels

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FineTuneOptions(TypedDict, total=False):
    """Options of :func:`stofm_geo.tasks.fine_tune` that :func:`annotate` takes."""

    method: str
    validation_fraction: float
    max_steps: int
    progress: bool


def annotate(
    adata: AnnData,
    reference: AnnData | list[AnnData] | Annotator,
    label_key: str | None = None,
    *,
    task: str = "region",
    key_added: str = Keys.LABEL,
    min_probability: float = 0.0,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    **options: Unpack[FineTuneOptions],
) -> None:
    """Predict labels and write them into ``adata.obs[key_added]``, in place.

    If ``reference`` holds labelled slices, a model is first fitted to them and to ``adata``,
    without labels and on their shared genes, with the default configuration and number of steps
    (:meth:`stofm_geo.SToFM.fit`), which takes a minute or more. Then a classifier is trained on the
    labels (:func:`stofm_geo.tasks.fine_tune`).

    Args:
        adata: Slices to label.
        reference: Labelled slices, or a trained annotator.
        label_key: Column of the reference's ``obs`` with labels; ``None`` for an annotator.
        task: ``"region"`` (default) or ``"cell_type"``; an annotator has its own.
        key_added: Column of ``obs``, categorical; ``obsm[key_added + "_probability"]`` has
            probabilities (:meth:`Annotator.predict`).
        min_probability: Cells whose most probable label is below this are ``"unassigned"``
            (default 0: none).
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` with the slice of each cell, in all AnnData.
        layer: Layer with the raw counts; ``None``: they are in ``X``.
        seed: Random seed of fit and fine-tuning.
        options: Options of :func:`stofm_geo.tasks.fine_tune`: ``method``,
            ``validation_fraction``, ``max_steps`` (of fine-tuning), ``progress``.

    Raises:
        KeyError, TypeError, ValueError: Invalid input; the message names it.
        ImportError: ``method="lora"`` without peft.

    Examples:
        >>> from stofm_geo import SToFM, datasets, tl
        >>> from stofm_geo.tasks import fine_tune
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> model = SToFM().fit(adata, max_steps=2, progress=False)
        >>> annotator = fine_tune(model, adata, "cell_type", task="cell_type", progress=False)
        >>> tl.annotate(adata, annotator, key_added="guess")
        >>> adata.obs["guess"].cat.categories.tolist() == annotator.classes
        True
    """
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
    check_fraction("min_probability", min_probability)
    check_anndata(adata, "adata")
    check_target(adata, key_added, spatial_key=spatial_key, slice_key=slice_key)
    known = FineTuneOptions.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"unknown option {preview(unknown)}; options are {', '.join(known)}")
    if isinstance(reference, Annotator):
        if label_key is not None or options:
            given = ["label_key"] * (label_key is not None) + sorted(options)
            raise ValueError(f"the reference is a trained annotator; leave out {preview(given)}")
        reference.predict(adata, key_added=key_added, min_probability=min_probability, **keys)
        return
    if label_key is None:
        raise ValueError("label_key is missing; name the column of the reference's obs with labels")
    labelled = check_anndatas(reference, "reference")
    names = numbered("reference", len(labelled))
    # Check before the fit, which takes a minute.
    training_labels(labelled, names, label_key)
    progress = options.get("progress", True)
    training = {name: value for name, value in options.items() if name != "progress"}
    check_options(task=task, seed=seed, **training)  # type: ignore[arg-type]
    model = SToFM()
    *references, query = (
        model.prepare(each, name=name, **keys)
        for each, name in zip([*labelled, adata], [*names, "AnnData"], strict=True)
    )
    model.fit([*references, query], seed=seed, progress=progress)
    annotator = fine_tune(
        model, references, label_key, task=task, seed=seed, names=names, **options
    )
    annotator.predict(query, key_added=key_added, min_probability=min_probability)
