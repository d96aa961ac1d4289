"""``stofm-geo corpus``: build, list and verify training corpora."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stofm_geo.cli import _options as options
from stofm_geo.cli.output import cli_errors, echo, record

if TYPE_CHECKING:
    from stofm_geo.data.corpus.sources import SourceOptions

corpus = typer.Typer(
    help="Corpora: slices of many files, harmonised and cut, to train on.", no_args_is_help=True
)
_Folder = Annotated[Path, typer.Argument(help="Folder of a corpus.")]


@corpus.command()
@cli_errors
def build(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the corpus.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help=".h5ad files, .zarr folders of AnnData or SpatialData, folders of vendors (as for "
            "embed), folders of these, patterns."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns path, slice (a column of obs that tells slices apart, or "
            "the name of one), technology, organism."
        ),
    ] = None,
    slice_key: options.SliceKey = None,
    table: Annotated[
        str | None, typer.Option(help="Table of SpatialData .zarr folders. (default: all)")
    ] = None,
    organism: Annotated[
        str,
        typer.Option(help="auto, human, mouse, or none, which keeps gene names as they are."),
    ] = "auto",
    num_workers: Annotated[int, typer.Option(help="Number of worker processes.", min=1)] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a dask.distributed scheduler whose workers make the slices. Needs the "
            "extra cluster. (default: this machine)"
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="i/n: make the i-th of n parts, in one of n array jobs; a build without it then "
            "completes the corpus. (default: all)"
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Nearest neighbours of a cell.", min=1)] = 12,
    max_macro_nodes: Annotated[
        int, typer.Option(help="Maximum number of macro nodes of a slice.", min=1)
    ] = 16,
    cells_per_subslice: Annotated[
        int, typer.Option(help="Maximum number of core cells of a sub-slice.", min=1)
    ] = 1000,
    n_components: Annotated[
        int, typer.Option(help="Number of principal components per slice.", min=1)
    ] = 50,
    molecules: Annotated[
        bool,
        typer.Option("--molecules", help="Hold out molecules, to train with objectives=molecules."),
    ] = False,
) -> None:
    """Harmonise slices, cut them into sub-slices and write a corpus.

    An interrupted build resumes. Slices that cannot be used are skipped and listed in failed.csv.
    Needs the extra corpus.
    """
    from stofm_geo.data.corpus import build as write
    from stofm_geo.data.corpus import find_sources, read_manifest

    given: SourceOptions = {"slice": slice_key, "organism": organism}
    found = find_sources(sources or [], table=table, **given)
    if manifest is not None:
        found += read_manifest(manifest, table=table, **given)
    if not found:
        raise ValueError("there is nothing to build from; name files or folders, or a --manifest")
    failed = write(
        found,
        output,
        k=k,
        max_macro_nodes=max_macro_nodes,
        cells_per_subslice=cells_per_subslice,
        n_components=n_components,
        molecules=molecules,
        num_workers=num_workers,
        scheduler=scheduler,
        part=part,
        on_progress=echo,
    )
    for label, reason in failed:
        echo(f"Skipped: {label}: {reason}")
    record(failed=dict(failed))
    echo(f"Wrote {output}" if part is None else f"Wrote part {part} into {output}")


@corpus.command()
@cli_errors
def info(folder: _Folder) -> None:
    """Print what is in a corpus."""
    from stofm_geo.data.corpus import read_index, summary

    rows = summary(folder)
    record(rows=rows)
    for technology, organism, *counts in (list(rows[0]), *(row.values() for row in rows)):
        echo(f"{technology:<20}{organism:<10}" + "".join(f"{count:>11}" for count in counts))
    if failed := read_index(folder)["failed"]:
        echo(f"{failed} slices were skipped; see {folder / 'failed.csv'}")


@corpus.command()
@cli_errors
def verify(folder: _Folder) -> None:
    """Verify all checksums; print mismatches and exit with 1 if there are any."""
    from stofm_geo.data.corpus import read_index
    from stofm_geo.data.corpus import verify as check

    wrong = check(folder)
    for line in wrong:
        echo(line)
    count = len(read_index(folder)["slices"])
    if wrong:
        raise ValueError(f"{len(wrong)} of {count} slices are not as they were written")
    echo(f"All {count} slices are as they were written")
