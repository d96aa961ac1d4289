"""Positions of the cells of a table that annotates elements of SpatialData."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._keys import Keys
from stofm_geo._names import read_names
from stofm_geo._validation import listed, preview
from stofm_geo.data.stores import ElsewhereError, check_zarr, unreadable

DEFAULT_SYSTEM = "global"
_KINDS = ("shapes", "labels", "points")  # that have an instance a cell
_FIX = "store the cells' x and y in obsm['spatial'] of the table"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what spatialdata and its readers print and log, which is for developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def require(package: str, why: str) -> Any:
    """Import a package of the extra ``io``.

    Args:
        package: ``spatialdata`` or ``spatialdata_io``.
        why: Beginning of the message.

    Raises:
        ImportError: It is not installed; the message says what to install.
    """
    try:
        with quiet():
            return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{why} needs {package.replace('_', '-')} ({error}); pip install 'stofm-geo[io]'"
        ) from error


def wants_elements(
    obsm: Mapping[str, Any], spatial_key: str | None, coordinate_system: str | None
) -> bool:
    """Return whether positions are to be those of elements."""
    missing = spatial_key == Keys.SPATIAL and spatial_key not in obsm
    return coordinate_system is not None or missing


def place_cells(
    adata: AnnData,
    elements: Callable[[set[str]], Mapping[str, Any]],
    coordinate_system: str | None,
) -> None:
    """Write the centroids of the instances that a table annotates into ``obsm["spatial"]``.

    Args:
        adata: The table. ``uns["stofm_positions"]`` is written, too: element and coordinate system.
        elements: Returns the elements of some names, of those that there are.
        coordinate_system: ``None``: ``"global"``.

    Raises:
        ImportError: spatialdata is not installed.
        KeyError: An element has no such coordinate system.
        ValueError: The table annotates nothing, elements are missing, or cells are not in them.
    """
    system = DEFAULT_SYSTEM if coordinate_system is None else coordinate_system
    region_key, instance_key = _keys(adata)
    region = read_names(adata.obs[region_key])
    names = {name for name in region if name is not None}
    found = elements(names)
    if missing := sorted(names - set(found)):
        raise ValueError(
            f"the table has no obsm['spatial'], and annotates {preview(missing)}, which is no "
            f"shapes, labels or points of the store; {_FIX}"
        )
    positions = np.full((adata.n_obs, 2), np.nan)
    for name in sorted(names):
        rows = np.flatnonzero(region == name)
        places = _centroids(found[name], name, system)
        positions[rows] = _of_instances(places, adata.obs[instance_key].iloc[rows], name)
    if unplaced := int(pd.isna(region).sum()):
        raise ValueError(
            f"obs[{region_key!r}] names no element for {unplaced} of {adata.n_obs} cells; leave "
            "those cells out, or fill it in"
        )
    adata.obsm[Keys.SPATIAL] = positions
    adata.uns[Keys.POSITIONS] = {"elements": sorted(names), "coordinate_system": system}


def _keys(adata: AnnData) -> tuple[str, str]:
    attributes = adata.uns.get("spatialdata_attrs")
    keys = [
        attributes.get(name) if isinstance(attributes, Mapping) else None
        for name in ("region_key", "instance_key")
    ]
    if not all(isinstance(key, str) and key in adata.obs for key in keys):
        raise ValueError(
            "the table has no obsm['spatial'], and annotates no element (uns['spatialdata_attrs'] "
            f"names no columns of obs); {_FIX}"
        )
    return keys[0], keys[1]  # type: ignore[return-value]


def read_elements(store: Path, names: set[str]) -> dict[str, Any]:
    """Return elements of a store, of the names that there are.

    Raises:
        ImportError: spatialdata is not installed.
        ValueError: They cannot be read, or are not safe to read.
    """
    kinds = [kind for kind in _KINDS if any((store / kind / name).is_dir() for name in names)]
    if not kinds:
        return {}
    spatialdata = require("spatialdata", f"{store}: positions of {preview(sorted(names))}")
    try:
        check_zarr(store)
        with quiet():
            read = spatialdata.read_zarr(store, selection=tuple(kinds))
        return {name: read[name] for name in names if name in read}
    except ElsewhereError:
        raise
    except Exception as error:
        raise unreadable("/".join([*kinds[:1], preview(sorted(names))]), error) from error


def _centroids(element: Any, name: str, system: str) -> pd.DataFrame:
    """Return x and y of the instances of an element, index is their name."""
    import spatialdata
    from spatialdata.transformations import get_transformation

    there = get_transformation(element, get_all=True)
    if system not in there:
        raise KeyError(
            f"element {name!r} is in no coordinate system {system!r}; it is in {listed(there)}; "
            "name one of these: coordinate_system=... (--coordinate-system)"
        )
    with quiet():
        places = spatialdata.get_centroids(element, coordinate_system=system).compute()
    return places[["x", "y"]]


def _of_instances(places: pd.DataFrame, instances: pd.Series, name: str) -> np.ndarray:
    """Return the positions of instances, ``[n, 2]``."""
    if places.index.has_duplicates:
        raise ValueError(f"element {name!r} has several instances of one name; rename them")
    row = places.index.get_indexer(instances)
    if (row < 0).all():  # numbers here and text there
        row = places.index.astype(str).get_indexer(read_names(instances))
    if (row < 0).any():
        absent = instances[row < 0]
        raise ValueError(
            f"{len(absent)} of {len(row)} cells are no instance of element {name!r} "
            f"({preview(absent)}); leave them out, or {_FIX}"
        )
    return places.to_numpy(dtype=np.float64)[row]
