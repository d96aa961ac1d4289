"""Cells in and out of the commands, in every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stofm_geo.cli._output import echo, record

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.data.io import Target


def read_tables(
    paths: Sequence[Path],
    table: str | None,
    coordinate_system: str | None,
    *,
    spatial_key: str | None,
    backed: bool = False,
) -> Iterator[AnnData]:
    """Read one file or folder after another; see :func:`stofm_geo.read`."""
    from stofm_geo.data import read

    for path in paths:
        yield read(
            path,
            table=table,
            spatial_key=spatial_key,
            coordinate_system=coordinate_system,
            backed=backed,
        )


def write_tables(adatas: Sequence[AnnData], targets: Sequence[Target]) -> None:
    """Write all cells, and say where."""
    for adata, target in zip(adatas, targets, strict=True):
        target.path.parent.mkdir(parents=True, exist_ok=True)
        target.write(adata)
        echo(f"Wrote {target.path}")
    record(written=[str(target.path) for target in targets])
