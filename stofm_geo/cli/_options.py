"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Slices = Annotated[
    list[Path],
    typer.Argument(
        help="One or several .h5ad files, .zarr folders of AnnData or SpatialData, or folders of "
        "Visium, Visium HD, Xenium, MERSCOPE, CosMx, Stereo-seq or Slide-seq."
    ),
]
OutputTable = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        help="The .h5ad or .zarr to write; for several files, a folder. A SpatialData .zarr may be "
        "its own output: its table is replaced.",
    ),
]
Table = Annotated[
    str | None,
    typer.Option(help="Table of SpatialData .zarr folders. (default: the only one)"),
]
CoordinateSystem = Annotated[
    str | None,
    typer.Option(
        help="Coordinate system of SpatialData: positions are the centroids of the table's "
        "elements in it. (default: those in the table, else in global)"
    ),
]
SliceKey = Annotated[
    str | None,
    typer.Option(help="Column of obs that names the slice of a cell. (default: one slice a file)"),
]
Layer = Annotated[
    str | None, typer.Option(help="Layer with the raw counts. (default: counts in X)")
]
NDomains = Annotated[
    int | None,
    typer.Option(help="Number of spatial domains. (default: as many as Leiden finds)", min=2),
]
Integrate = Annotated[
    str,
    typer.Option(
        help="How differences between slices are taken out before domains are found: harmony, "
        "center, none, or auto, which changes only slices that lie apart. X_stofm stays."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        help="Picture of the domains to write (.png, .pdf, .svg); of several files, one each, "
        "with the name of the file added."
    ),
]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the positions, x and y.")]
Seed = Annotated[int, typer.Option(help="Random seed.", min=0)]
