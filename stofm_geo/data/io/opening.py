"""Open a table of cells and leave its counts on disk, for what reads them slice by slice."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from stofm_geo._anndata_checks import layer_names
from stofm_geo._keys import Keys
from stofm_geo._validation import error_context
from stofm_geo.data.io.formats import Location, locate
from stofm_geo.data.io.reading import read
from stofm_geo.data.io.spatialdata import place_cells, read_elements, wants_elements
from stofm_geo.data.io.zarr import open_anndata
from stofm_geo.data.stores import ElsewhereError, unreadable
from stofm_geo.genes.counts import missing_counts_message


@dataclass
class OpenTable:
    """What is read of a source; ``x`` stays on disk, and so does of zarr what nobody asks for."""

    obs: pd.DataFrame
    var: pd.DataFrame
    obsm: Mapping[str, Any]
    uns: Mapping[str, Any]
    x: Any


class _Elements(Mapping):
    """Elements of a zarr group, read when they are asked for."""

    def __init__(self, file: Any, name: str) -> None:
        self._group = file[name] if name in file else {}

    def __getitem__(self, key: str) -> Any:
        return read_elem(self._group[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(list(self._group))


@contextmanager
def open_table(
    path: str, table: str | None = None, spatial_key: str | None = None
) -> Iterator[OpenTable]:
    """Open a table; the parts of a zarr folder are read on access.

    Args:
        path: File or folder; of SpatialData the folder of the table.
        table: Name of the table; see :func:`~stofm_geo.read`.
        spatial_key: Key in ``obsm`` of the positions, if they are needed: those of elements of
            SpatialData are put there.

    Raises:
        ValueError: It cannot be read.
    """
    where = locate(path, table)
    adata = None
    try:
        if where.kind in ("anndata", "spatialdata"):
            yield _of_zarr(where, spatial_key)
        else:
            adata = read(path, table=table, spatial_key=spatial_key, backed=True)
            there = "X" in adata.file if adata.isbacked else adata.X is not None
            _check_x(path, there, layer_names(adata))
            x = adata.file["X"] if adata.isbacked else adata.X
            yield OpenTable(adata.obs, adata.var, adata.obsm, adata.uns, x)
    except (ImportError, KeyError, TypeError, ValueError, MemoryError):
        raise
    except Exception as error:  # of what is read when it is asked for
        raise unreadable(path, error) from error
    finally:
        if adata is not None:
            adata.file.close()


def _of_zarr(where: Location, spatial_key: str | None) -> OpenTable:
    path, file = str(where.group), cast(Any, open_anndata(where.group))
    _check_x(path, "X" in file, file.get("layers", ()))
    try:
        obs, var = read_elem(file["obs"]), read_elem(file["var"])
        found = OpenTable(obs, var, _Elements(file, "obsm"), _Elements(file, "uns"), file["X"])
        attributes = found.uns.get("spatialdata_attrs")
    except Exception as error:
        raise unreadable(path, error) from error
    if where.kind == "spatialdata" and wants_elements(found.obsm, spatial_key, None):
        cells = AnnData(obs=obs, uns={"spatialdata_attrs": attributes})
        with error_context(path):
            place_cells(cells, partial(read_elements, where.path), None)
        found.obsm = ChainMap({Keys.SPATIAL: cells.obsm[Keys.SPATIAL]}, cast(dict, found.obsm))
    return found


def _check_x(path: str, there: bool, layers: Iterable[str]) -> None:
    if not there:
        raise ElsewhereError(f"{path}: {missing_counts_message(layers)}")
