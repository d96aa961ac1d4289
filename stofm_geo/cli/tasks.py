"""``stofm-geo finetune | predict | evaluate``: labels of regions or cell types."""

from __future__ import annotations

import json
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stofm_geo._keys import Keys
from stofm_geo.cli import _options as options
from stofm_geo.cli._tables import Reader, read_tables, write_tables
from stofm_geo.cli.output import cli_errors, counted, echo, record

if TYPE_CHECKING:
    from stofm_geo.models.prepare import SliceKeys

_Model = Annotated[Path, typer.Option(help="Folder that stofm-geo finetune has written.")]


class Task(str, Enum):
    """Kind of labels."""

    region = "region"
    cell_type = "cell_type"


class Method(str, Enum):
    """Fine-tuning method."""

    probe = "probe"
    mlp = "mlp"
    lora = "lora"
    full = "full"


@cli_errors
def finetune(
    slices: options.Slices,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new model.")],
    task: Annotated[
        Task,
        typer.Option(help="region: labels of tissue regions; cell_type: labels of single cells."),
    ],
    label_key: Annotated[str, typer.Option(help="Column of obs with labels.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or name of a saved SToFM to start from. (default: fit one to the slices, "
            "without labels)"
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="probe: a linear classifier; mlp: with one hidden layer; lora: low-rank adapters "
            "of the Transformer, too (needs the extra finetune); full: all weights."
        ),
    ] = Method.probe,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    table: options.Table = None,
    coordinate_system: options.CoordinateSystem = None,
    max_steps: Annotated[
        int, typer.Option(help="Maximum number of training steps, for lora and full.", min=1)
    ] = 300,
    seed: options.Seed = 0,
) -> None:
    """Train a model to predict regions or cell types from labelled slices.

    Writes config.json and model.safetensors, all that stofm-geo predict needs. Scores are of parts
    of the tissue that were held out: whole slices of four or more, else contiguous blocks.
    """
    from stofm_geo import SToFM
    from stofm_geo._files import check_folder
    from stofm_geo.networks.files import FILES
    from stofm_geo.tasks import fine_tune
    from stofm_geo.tasks.annotation.fine_tune import check_options
    from stofm_geo.tasks.labels import training_labels

    check_folder(output, FILES, make=True)
    check_options(method.value)
    adatas = list(read_tables(slices, table, coordinate_system, spatial_key=spatial_key))
    names = [str(path) for path in slices]
    training_labels(adatas, names, label_key)
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
    start = time.perf_counter()
    if model is None:
        base = SToFM()
        adatas = [
            base.prepare(adata, name=name, **keys)
            for adata, name in zip(adatas, names, strict=True)
        ]
        base.fit(adatas, seed=seed)
        echo(f"Fitted to {base.training_record['cells']} cells, {_since(start)}")
        start = time.perf_counter()
    else:
        base = SToFM.from_pretrained(model)
    annotator = fine_tune(
        base,
        adatas,
        label_key,
        method.value,
        task=task.value,
        max_steps=max_steps,
        seed=seed,
        names=names,
        **keys,
    )
    training = annotator.record
    held_out = training["held_out"]
    record(training=training, classes=annotator.classes, output=output)
    echo(
        f"Learned {len(annotator.classes)} labels from {training['labelled_cells']} cells in "
        f"{counted(training['slices'], 'slice')}, {training['steps']} steps, {_since(start)}; on "
        f"{held_out['cells']} cells held out: accuracy {held_out['accuracy']:.3f}, "
        f"macro-F1 {held_out['macro_f1']:.3f}"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    annotator.save(output)
    echo(f"Wrote {output}")


@cli_errors
def predict(
    slices: options.Slices,
    model: _Model,
    output: options.OutputTable,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    table: options.Table = None,
    coordinate_system: options.CoordinateSystem = None,
    key_added: Annotated[str, typer.Option(help="Column of obs to write.")] = Keys.LABEL,
    min_probability: Annotated[
        float,
        typer.Option(
            help="Cells whose most probable label is less probable than this are 'unassigned'.",
            min=0,
            max=1,
        ),
    ] = 0.0,
) -> None:
    """Predict labels of slices.

    Writes obs[KEY], obsm[KEY_probability] and uns[KEY] into a copy of each file, or into the
    table of a SpatialData store that is its own output.
    """
    from stofm_geo.data.io import output_targets
    from stofm_geo.tasks import Annotator

    targets = output_targets(slices, output, table=table)
    annotator = Annotator.load(model)
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
    adatas = [*map(Reader(table, coordinate_system, spatial_key), slices)]
    for adata, path in zip(adatas, slices, strict=True):
        annotator.predict(
            adata, key_added=key_added, min_probability=min_probability, name=str(path), **keys
        )
        count = adata.obs[key_added].value_counts()
        labels = {str(name): int(cells) for name, cells in count[count > 0].items()}
        record(files={str(path): {"labels": labels}})
        echo(f"{path}: " + ", ".join(f"{name} {cells}" for name, cells in labels.items()))
    write_tables(adatas, targets)


@cli_errors
def evaluate(
    slices: options.Slices,
    model: _Model,
    label_key: Annotated[str, typer.Option(help="Column of obs with known labels.")],
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    table: options.Table = None,
    coordinate_system: options.CoordinateSystem = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON file to write scores into.")
    ] = None,
) -> None:
    """Compare what a fine-tuned model predicts with known labels."""
    from stofm_geo._files import atomic_path, check_writable
    from stofm_geo.tasks import Annotator

    if output is not None:
        check_writable(output)
    annotator = Annotator.load(model)
    keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
    scores: dict[str, Any] = {}
    tables = read_tables(slices, table, coordinate_system, spatial_key=spatial_key)
    for adata, path in zip(tables, slices, strict=True):
        found = annotator.evaluate(adata, label_key, name=str(path), **keys)
        scores[str(path)] = found
        echo(
            f"{path}: accuracy {found['accuracy']:.3f}, macro-F1 {found['macro_f1']:.3f}, "
            f"ARI {found['ari']:.3f}, NMI {found['nmi']:.3f}, "
            f"calibration error {found['calibration_error']:.3f}, "
            f"spatial coherence {found['coherence']:.3f}, of {found['cells']} cells"
        )
        for label, score in found["f1"].items():
            echo(f"  F1 {score:.3f}  {label}" + " (not in training)" * (label in found["unknown"]))
    record(files=scores)
    if output is not None:
        with atomic_path(output) as temporary:
            temporary.write_text(json.dumps(scores, indent=2) + "\n")
        echo(f"Wrote {output}")


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"
