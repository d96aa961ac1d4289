"""Cells in and out of the commands, in every format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stofm_geo.cli.output import echo, record

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.data.io import Target


@dataclass(frozen=True)
class Reader:
    """Read the cells of one file, as a file can hold them; see :func:`stofm_geo.read`."""

    table: str | None
    coordinate_system: str | None
    spatial_key: str

    def __call__(self, path: Path, *, backed: bool = False) -> AnnData:
        """Read them; ``backed`` leaves counts of ``.h5ad`` files on disk."""
        from stofm_geo.data import prepare_for_writing, read

        adata = read(
            path,
            table=self.table,
            spatial_key=self.spatial_key,
            coordinate_system=self.coordinate_system,
            backed=backed,
        )
        prepare_for_writing(adata, str(path))
        return adata


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


def write_tables(adatas: Iterable[AnnData], targets: Sequence[Target]) -> None:
    """Write all cells, and say where."""
    for adata, target in zip(adatas, targets, strict=True):
        target.path.parent.mkdir(parents=True, exist_ok=True)
        target.write(adata)
        echo(f"Wrote {target.path}")
    record(written=[str(target.path) for target in targets])
