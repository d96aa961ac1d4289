"""``stofm-geo domains | deconvolve | impute | denoise``: tasks that need no labels of a user."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stofm_geo._keys import Keys
from stofm_geo.cli import _options as options
from stofm_geo.cli._domains import report, write_domains
from stofm_geo.cli._tables import Reader, write_tables
from stofm_geo.cli.output import cli_errors, echo, record

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.models.prepare import SpatialKeys

Reference = Annotated[
    Path, typer.Option(help="Reference cells with raw counts, in any format of the input.")
]
ReferenceTable = Annotated[
    str | None,
    typer.Option(help="Table of the reference, a SpatialData .zarr. (default: the only one)"),
]

ReferenceLayer = Annotated[
    str | None,
    typer.Option(help="Layer of the reference with its raw counts. (default: counts in X)"),
]


class Organism(str, Enum):
    """Organism whose genes are turned into human Ensembl ids."""

    auto = "auto"
    human = "human"
    mouse = "mouse"


OrganismOption = Annotated[
    Organism | None,
    typer.Option(
        help="Turn the genes of both sides into human Ensembl ids first. (default: compare names)"
    ),
]


@cli_errors
def domains(
    slices: options.Slices,
    output: options.OutputTable,
    n_domains: options.NDomains = None,
    use_rep: Annotated[str, typer.Option(help="Key in obsm of the embedding.")] = Keys.EMBEDDING,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    key_added: Annotated[str, typer.Option(help="Column of obs to write.")] = Keys.DOMAIN,
    refine: Annotated[
        bool, typer.Option(help="Smooth domains by a majority vote of the neighbours.")
    ] = True,
    integrate: options.Integrate = "auto",
    plot: options.Plot = None,
    table: options.Table = None,
    seed: options.Seed = 0,
) -> None:
    """Find spatial domains of slices that have embeddings.

    Several files are clustered jointly. Writes obs[KEY] into a copy of each file.
    """
    from stofm_geo._validation import listed
    from stofm_geo.data.io import output_targets
    from stofm_geo.tasks.integration import check_method

    check_method("--integrate", integrate)
    targets = output_targets(slices, output, table=table)
    if plot is not None:
        from stofm_geo.pl import check_picture

        check_picture(plot)
    adatas = _read(slices, table, spatial_key)
    for adata, path in zip(adatas, slices, strict=True):
        if use_rep not in adata.obsm:
            raise KeyError(
                f"{path}: obsm has no {use_rep!r} (embeddings); it has {listed(adata.obsm)}; run "
                "stofm-geo embed first, or name another key with --use-rep"
            )
    keys: SpatialKeys = {"spatial_key": spatial_key, "slice_key": slice_key}
    write_domains(
        adatas,
        n_domains,
        integrate=integrate,
        use_rep=use_rep,
        key_added=key_added,
        refine=refine,
        seed=seed,
        **keys,
    )
    names = [str(path) for path in slices]
    report(adatas, names, label_key=None, plot=plot, domains_key=key_added, **keys)
    write_tables(adatas, targets)


@cli_errors
def deconvolve(
    slices: options.Slices,
    reference: Reference,
    output: options.OutputTable,
    label_key: Annotated[
        str, typer.Option(help="Column of the reference's obs with cell types.")
    ] = "cell_type",
    cells_per_spot: Annotated[
        float | None,
        typer.Option(help="Cells of a spot, on average. (default: from the counts)", min=0),
    ] = None,
    organism: OrganismOption = None,
    slice_key: Annotated[
        str | None,
        typer.Option(help="Column of the reference's obs that names its slices. (default: one)"),
    ] = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    reference_layer: ReferenceLayer = None,
    key_added: Annotated[str, typer.Option(help="Key in obsm to write.")] = Keys.PROPORTIONS,
    table: options.Table = None,
    reference_table: ReferenceTable = None,
    seed: options.Seed = 0,
) -> None:
    """Estimate the proportions of cell types in each spot from labelled reference cells.

    Writes obsm[KEY], a table of spots and types, and uns[KEY] into a copy of each file.
    """
    from stofm_geo import tl
    from stofm_geo.data.io import output_targets

    targets = output_targets(slices, output, table=table)
    known = _read_reference(reference, reference_table, spatial_key)
    adatas = _read(slices, table, spatial_key)
    for adata, path in zip(adatas, slices, strict=True):
        start = time.perf_counter()
        tl.deconvolve(
            adata,
            known,
            label_key,
            key_added=key_added,
            slice_key=slice_key,
            spatial_key=spatial_key,
            layer=layer,
            reference_layer=reference_layer,
            organism=None if organism is None else organism.value,
            cells_per_spot=cells_per_spot,
            seed=seed,
        )
        types = adata.obsm[key_added].shape[1]
        genes = adata.uns[key_added]["n_genes"]
        record(files={str(path): {"spots": adata.n_obs, "cell_types": types, "genes": genes}})
        echo(
            f"{path}: proportions of {types} cell types in {adata.n_obs} spots from {genes} genes, "
            f"{time.perf_counter() - start:.0f} s"
        )
    write_tables(adatas, targets)


@cli_errors
def impute(
    slices: options.Slices,
    reference: Reference,
    output: options.OutputTable,
    genes: Annotated[
        list[str] | None,
        typer.Option("--gene", help="Gene to estimate; repeat it. (default: all that are missing)"),
    ] = None,
    organism: OrganismOption = None,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    reference_layer: ReferenceLayer = None,
    key_added: Annotated[str, typer.Option(help="Key in obsm to write.")] = Keys.IMPUTED,
    table: options.Table = None,
    reference_table: ReferenceTable = None,
) -> None:
    """Estimate genes that a panel lacks from reference cells that have them.

    Writes obsm[KEY], a table of cells and genes, and uns[KEY] with the reliability of each gene
    into a copy of each file.
    """
    from stofm_geo import tl
    from stofm_geo.data.io import output_targets

    targets = output_targets(slices, output, table=table)
    known = _read_reference(reference, reference_table, spatial_key)
    adatas = _read(slices, table, spatial_key)
    for adata, path in zip(adatas, slices, strict=True):
        start = time.perf_counter()
        tl.impute(
            adata,
            known,
            genes,
            key_added=key_added,
            slice_key=slice_key,
            spatial_key=spatial_key,
            layer=layer,
            reference_layer=reference_layer,
            organism=None if organism is None else organism.value,
        )
        quality = adata.uns[key_added]["reliability"]["correlation"]
        record(files={str(path): {"cells": adata.n_obs, "correlation": quality.to_dict()}})
        echo(
            f"{path}: estimated {len(quality)} genes in {adata.n_obs} cells; median correlation on "
            f"held-out reference cells {quality.median():.2f}; "
            f"{time.perf_counter() - start:.0f} s"
        )
    write_tables(adatas, targets)


@cli_errors
def denoise(
    slices: options.Slices,
    output: options.OutputTable,
    model: Annotated[
        str | None,
        typer.Option(help="Model of stofm-geo embed --save-model. (default: fit one to each file)"),
    ] = None,
    genes: Annotated[
        list[str] | None,
        typer.Option("--gene", help="Gene to estimate; repeat it. (default: all, as a layer)"),
    ] = None,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    layer: options.Layer = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Training steps at most. (default: 600)", min=1)
    ] = None,
    key_added: Annotated[str, typer.Option(help="Key to write.")] = Keys.DENOISED,
    table: options.Table = None,
    seed: options.Seed = 0,
) -> None:
    """Estimate the expected expression of each cell, without its counting noise.

    Writes layers[KEY], expected counts (obsm[KEY] with --gene), and reliabilities in obs, var and
    uns into a copy of each file.
    """
    from stofm_geo import SToFM, tl
    from stofm_geo.data.io import output_targets

    if model is not None and max_steps is not None:
        raise ValueError("--max-steps is for a model that is fitted; leave it or --model out")
    targets = output_targets(slices, output, table=table)
    known = None if model is None else SToFM.from_pretrained(model)
    adatas = _read(slices, table, spatial_key)
    for adata, path in zip(adatas, slices, strict=True):
        start = time.perf_counter()
        tl.denoise(
            adata,
            known,
            genes,
            key_added=key_added,
            slice_key=slice_key,
            spatial_key=spatial_key,
            layer=layer,
            max_steps=max_steps,
            seed=seed,
        )
        d2 = float(adata.uns[key_added]["d2"])
        record(files={str(path): {"cells": adata.n_obs, "d2": d2}})
        echo(
            f"{path}: denoised {adata.n_obs} cells; of the deviance of held-out molecules, "
            f"{d2:.1%} is explained; {time.perf_counter() - start:.0f} s"
        )
    write_tables(adatas, targets)


def _read(slices: list[Path], table: str | None, spatial_key: str) -> list[AnnData]:
    """Read all cells, and see that they can be written, before any work."""
    return [*map(Reader(table, None, spatial_key), slices)]


def _read_reference(path: Path, table: str | None, spatial_key: str) -> AnnData:
    from stofm_geo.data import read

    return read(path, table=table, spatial_key=spatial_key)
