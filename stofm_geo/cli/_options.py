"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Slices = Annotated[list[Path], typer.Argument(help="One or several .h5ad files.")]
OutputTable = Annotated[
    Path, typer.Option("-o", "--output", help="The .h5ad to write; for several files, a folder.")
]
SliceKey = Annotated[
    str | None,
    typer.Option(help="Column of obs that names the slice of a cell. (default: one slice a file)"),
]
SpatialKey = Annotated[str, typer.Option(help="Key in obsm of the positions, x and y.")]
Seed = Annotated[int, typer.Option(help="Random seed.", min=0)]
