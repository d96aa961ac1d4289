"""``stofm-geo adapt``: train a cell encoder on slices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stofm_geo.cli import _options as options
from stofm_geo.cli._tables import read_tables
from stofm_geo.cli.output import cli_errors, echo, record

if TYPE_CHECKING:
    from anndata import AnnData


@cli_errors
def adapt(
    slices: options.Slices,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new encoder.")],
    vocabulary: Annotated[
        Path,
        typer.Option(help="Token vocabulary: the folder of Geneformer's dictionaries, or a .json."),
    ],
    init: Annotated[
        Path | None,
        typer.Option(
            help="Initial weights: the folder of a BERT (Geneformer) or of a cell encoder. "
            "(default: a new BERT)"
        ),
    ] = None,
    max_steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option(help="Cells per step.", min=2)] = 16,
    max_length: Annotated[
        int, typer.Option(help="Maximum number of tokens per cell in training.", min=2)
    ] = 512,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    freeze_layers: Annotated[
        int, typer.Option(help="Freeze the embeddings and this many layers; 0 trains all.", min=0)
    ] = 0,
    hidden_size: Annotated[
        int | None, typer.Option(help="Width of a new BERT (default: 256).", min=1)
    ] = None,
    layers: Annotated[
        int | None, typer.Option(help="Layers of a new BERT (default: 4).", min=1)
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Heads of a new BERT (default: 4).", min=1)
    ] = None,
    out_channels: Annotated[
        int, typer.Option(help="Length of a cell's vector, where none is given by --init.", min=1)
    ] = 256,
    table: options.Table = None,
    seed: options.Seed = 0,
) -> None:
    """Train a cell encoder on slices, without labels, from a published BERT or from scratch.

    Writes cell_bert/, cell_proj.bin, vocabulary.json and training.json. Needs the extra
    cell-encoder.
    """
    from stofm_geo._files import check_folder
    from stofm_geo.genes import Vocabulary
    from stofm_geo.training.adapt_encoder import FILES, adapt_encoder, save_adapted
    from stofm_geo.training.adaptation_config import AdaptationConfig

    check_folder(output, FILES, make=True)
    given = {"hidden_size": hidden_size, "layers": layers, "heads": heads}
    sizes = {name: value for name, value in given.items() if value is not None}
    if init is not None and sizes:
        raise ValueError(f"{init}: has sizes of its own; leave out {', '.join(sizes)}")
    settings = AdaptationConfig(
        batch_size=batch_size,
        max_length=max_length,
        learning_rate=learning_rate,
        freeze_layers=freeze_layers,
        out_channels=out_channels,
        **sizes,
    )
    start = time.perf_counter()
    encoder, training = adapt_encoder(
        _opened(slices, table),
        Vocabulary.read(vocabulary),
        settings,
        init=init,
        max_steps=max_steps,
        seed=seed,
        names=[str(path) for path in slices],
    )
    before, after = training["held_out_before"], training["held_out_after"]
    record(training=dict(training), output=output)
    seconds = time.perf_counter() - start
    echo(
        f"Adapted to {training['cells']} cells, {max_steps} steps, {seconds:.0f} s; "
        f"on {training['held_out_cells']} cells held out, "
        f"gene loss {before['gene_loss']:.3f} -> {after['gene_loss']:.3f}, "
        f"cell loss {before['cell_loss']:.3f} -> {after['cell_loss']:.3f}"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_adapted(encoder, training, output)
    echo(f"Wrote {output}")


def _opened(slices: list[Path], table: str | None) -> Iterator[AnnData]:
    """Open one slice after another, counts of .h5ad files left on disk."""
    for adata in read_tables(slices, table, None, spatial_key=None, backed=True):
        try:
            yield adata
        finally:
            adata.file.close()
