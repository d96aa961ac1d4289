"""``stofm-geo embed | demo``: embeddings and spatial domains of slices."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stofm_geo._keys import Keys
from stofm_geo.cli import _options as options
from stofm_geo.cli._domains import report, write_domains
from stofm_geo.cli._embedding import (
    OFFICIAL,
    Settings,
    Tables,
    add_results,
    embed_part,
    embed_tables,
)
from stofm_geo.cli._stages import Stages
from stofm_geo.cli._tables import Reader, read_tables, write_tables
from stofm_geo.cli.output import cli_errors, echo

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.models.prepare import SpatialKeys

_MINI = "stofm-geo-mini"


@cli_errors
def embed(
    slices: options.Slices,
    output: options.OutputTable,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub name of a saved model, or official:DIR, a checkpoint of the "
            "published SToFM. (default: fit one to the slices)"
        ),
    ] = None,
    zero_shot: Annotated[
        bool,
        typer.Option(
            "--zero-shot",
            help="Use stofm-geo-mini instead of fitting a model: a small model installed with the "
            "library, for any panel of human or mouse genes.",
        ),
    ] = False,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="With official:DIR, Geneformer's dictionaries (a folder), or a .json."),
    ] = None,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    table: options.Table = None,
    coordinate_system: options.CoordinateSystem = None,
    use_rep: Annotated[
        str | None,
        typer.Option(help="Key in obsm of precomputed cell vectors. (default: encode X)"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder to fit: pca, or panel for files of different panels or species, whose "
            "genes become human Ensembl ids. (default: pca)"
        ),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of training steps of a model that is fitted. (default: 600 on "
            "held-out molecules; 80 on niches, which are learned with --encoder panel and from "
            "counts that are not whole; fewer where held-out data are predicted no better)",
            min=1,
        ),
    ] = None,
    find_domains: Annotated[
        bool, typer.Option("--domains/--no-domains", help="Find spatial domains.")
    ] = True,
    n_domains: options.NDomains = None,
    integrate: options.Integrate = "auto",
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="An .h5ad that an earlier run of the same --model has written: domains get its "
            "names and colours. May be given several times."
        ),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with known regions, to score domains by.")
    ] = None,
    plot: options.Plot = None,
    seed: options.Seed = 0,
    save_model: Annotated[
        Path | None, typer.Option(help="Folder to save the fitted model in.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the fitted model and the embeddings of each file in OUTPUT.partial until "
            "the command is done, and go on from there if it was killed.",
        ),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a dask.distributed scheduler whose workers embed the files, with "
            "--model or a fitted one; implies --resume. Needs the extra cluster. (default: this "
            "machine)"
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="i/n: embed the i-th of n parts of the files with --model, in one of n array "
            "jobs, into OUTPUT.partial; the same command with --resume then does the rest. "
            "(default: all)"
        ),
    ] = None,
) -> None:
    """Embed slices and find their spatial domains.

    Writes obsm["X_stofm"] (n x 256, float32), obs["stofm_domain"] and uns["stofm"] into a copy of
    each file, or into the table of a SpatialData store that is its own output. Domains of several
    slices are found jointly: a domain has one name in all of them.
    """
    from stofm_geo._files import check_folder
    from stofm_geo.data.io import output_targets

    if integrate != "auto":
        from stofm_geo.tasks.integration import check_method

        check_method("--integrate", integrate)
    if zero_shot:
        if model or encoder or use_rep:
            raise ValueError(
                f"--zero-shot is --model {_MINI} on counts; leave --model, --encoder and "
                "--use-rep out"
            )
        model = _MINI
    official = (model or "").startswith(OFFICIAL)
    _check_options(
        (
            vocabulary is not None and not official,
            f"--vocabulary goes with --model {OFFICIAL}DIR alone; leave it out",
        ),
        (layer is not None and official, "a published model reads counts in X; leave --layer out"),
        (layer is not None and use_rep is not None, "--layer and --use-rep: give one of them"),
        (
            encoder is not None and bool(model or use_rep),
            "an encoder is for fitting to counts; leave --model and --use-rep out",
        ),
        (
            model is not None and save_model is not None,
            "--save-model is for a model that is fitted; leave one of both out",
        ),
        (
            model is not None and max_steps is not None,
            "--max-steps is for a model that is fitted; leave one of both out",
        ),
        (
            part is not None and (model is None or scheduler is not None),
            "--part needs --model, and no --scheduler",
        ),
        (
            not find_domains and bool(n_domains or reference or label_key or plot),
            "--no-domains leaves nothing to score or to draw; leave --n-domains, --reference, "
            "--label-key and --plot out",
        ),
        (
            bool(reference) and (model is None or n_domains is not None),
            "--reference has its model and its number of domains; give that --model, and leave "
            "--n-domains out",
        ),
        (
            label_key == Keys.DOMAIN,
            f"--label-key is {label_key!r}, where the domains are written: they would be scored by "
            "themselves; rename the column that has the labels",
        ),
    )
    targets = output_targets(slices, output, table=table)
    if plot is not None:
        from stofm_geo.pl import check_picture

        check_picture(plot)
    if save_model is not None:
        check_folder(save_model, None, make=True)
    known = list(read_tables(reference or [], None, None, spatial_key=spatial_key))
    reader = Reader(table, coordinate_system, spatial_key)
    tables = Tables(slices, reader)
    for number, path in enumerate(slices):
        # Of one of several files, only what is checked; it is read when it is its turn.
        adata = tables[number] if len(slices) == 1 else reader(path, backed=True)
        _check_cells(adata, path, label_key, n_domains)
    settings = Settings(
        keys={"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer},
        model=model,
        vocabulary=vocabulary,
        use_rep=use_rep,
        encoder=encoder,
        max_steps=max_steps,
        seed=seed,
        save_model=save_model,
    )
    partial_output = (
        output.with_name(f"{output.name}.partial") if resume or scheduler or part else None
    )
    stages = Stages(partial_output, slices, {"settings": settings, "reader": reader})
    if part is not None:
        embed_part(tables, settings, stages, part)
        return
    results = embed_tables(tables, settings, stages, scheduler)
    if find_domains:
        keys: SpatialKeys = {"spatial_key": spatial_key, "slice_key": slice_key}
        write_domains(results, n_domains, integrate=integrate, reference=known, seed=seed, **keys)
        report(results, [str(path) for path in slices], label_key=label_key, plot=plot, **keys)
    write_tables(map(partial(_with_results, tables, results), range(len(tables))), targets)
    stages.remove()


@cli_errors
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for tissue.h5ad and tissue.png.")
    ] = Path("stofm-geo-demo"),
    seed: options.Seed = 0,
) -> None:
    """Embed a toy tissue and compare its spatial domains with the known regions."""
    from stofm_geo._files import check_writable
    from stofm_geo.data.io import Target
    from stofm_geo.datasets import toy_tissue

    check_writable(output / "tissue.h5ad", make=True)
    adata = toy_tissue(seed=seed)
    regions = adata.obs["region"].nunique()
    echo(f"Toy tissue: {adata.n_obs} cells, {adata.n_vars} genes, {regions} known regions")
    settings = Settings(keys={"spatial_key": Keys.SPATIAL, "slice_key": None}, seed=seed)
    tables = Tables([Path("toy tissue")], lambda path: adata)
    embed_tables(tables, settings, Stages(None, [], {}))
    write_domains([adata], regions, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    report([adata], ["toy tissue"], label_key="region", plot=output / "tissue.png")
    write_tables([adata], [Target(output / "tissue.h5ad")])


def _check_options(*wrong: tuple[bool, str]) -> None:
    """Raise the message of the first combination of options that is wrong.

    Raises:
        ValueError: One is.
    """
    for is_wrong, message in wrong:
        if is_wrong:
            raise ValueError(message)


def _check_cells(adata: AnnData, path: Path, label_key: str | None, n_domains: int | None) -> None:
    from stofm_geo._names import read_names
    from stofm_geo._validation import listed

    if label_key is not None and label_key not in adata.obs:
        raise KeyError(f"{path}: obs has no {label_key!r} (labels); it has {listed(adata.obs)}")
    if label_key is not None and not read_names(adata.obs[label_key]).astype(bool).any():
        raise ValueError(f"{path}: obs[{label_key!r}] has no labels; leave --label-key out")
    if n_domains is not None and n_domains > adata.n_obs:
        raise ValueError(f"{path}: {n_domains} domains were requested of {adata.n_obs} cells")
    if adata.isbacked:
        adata.file.close()


def _with_results(tables: Tables, results: list[AnnData], number: int) -> AnnData:
    adata = tables[number]
    add_results(adata, results[number])
    return adata
