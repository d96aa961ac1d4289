"""The slices of an AnnData, each in its own frame."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch_geometric.data import Data

from stofm_geo._checks import (
    check_anndata,
    check_obsm,
    check_positions,
    check_slice_key,
    examples,
    naming,
)
from stofm_geo._keys import Keys
from stofm_geo.data.anndata import from_anndata
from stofm_geo.data.frame import Frame, canonical_frame
from stofm_geo.genes import CellFeatures, as_counts
from stofm_geo.transforms._search import distinct


def split_slices(
    adata: AnnData,
    *,
    features_key: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    name: str = "AnnData",
    min_cells: int = 1,
) -> list[AnnData]:
    """Check an AnnData and take it apart into slices, each in its own frame.

    Args:
        adata: Cells or spots.
        features_key: Key in ``obsm`` of the features; ``None``: counts in ``X`` are used.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one slice.
        name: What messages call ``adata``, a file name, say.
        min_cells: Least cells a slice must have.

    Returns:
        An AnnData a slice, cells in canonical order (:func:`~stofm_geo.data.canonical_frame`):
        counts in ``X`` (float32 CSR) or features in ``obsm``, positions in cell spacings in
        ``obsm["spatial"]``, ``obs["row"]`` the row in ``adata``, ``uns["name"]`` and
        ``uns["unit"]`` (the cell spacing in the unit of ``adata``); ``uns["technology"]`` as in
        ``adata``, where it is there.

    Raises:
        KeyError: A key that is not there.
        ValueError: Too few cells, all cells at one place, unfit positions, counts or features.
        TypeError: No AnnData, or positions, counts or features that are not numbers.
    """
    check_anndata(adata, name)
    with naming(name):
        if adata.n_obs == 0:
            raise ValueError("there are no cells")
        positions = check_positions(adata, spatial_key)
        if features_key is None:
            values = as_counts(adata, copy=False)
        else:
            values = check_obsm(adata, features_key)
        if slice_key is None:
            for usual in Keys.SLICES:
                if usual in adata.obs:
                    warn_of_slices(usual, adata.obs[usual].nunique())
        groups = slice_rows(adata, slice_key, name)
        if slice_key is not None:
            check_sizes(adata, slice_key, min_cells)
    key = Keys.TECHNOLOGY
    technology = {key: str(adata.uns[key])} if key in adata.uns else {}
    slices = []
    for slice_name, rows in groups.items():
        with naming(slice_name):
            own = values if len(groups) == 1 else values[rows]  # a copy is as large as the file
            order, pos, unit = checked_frame(own, positions[rows], min_cells)
        rows = rows[order]
        part = AnnData(
            X=values[rows] if features_key is None else None,
            obs=pd.DataFrame({"row": rows}, index=adata.obs_names[rows].astype(str)),
            var=pd.DataFrame(index=adata.var_names) if features_key is None else None,
            obsm={Keys.SPATIAL: pos},
            uns={"name": slice_name, "unit": unit, **technology},
        )
        if features_key is not None:
            part.obsm[features_key] = values[rows]
        slices.append(part)
    return slices


def warn_of_slices(key: str, count: int) -> None:
    """Warn where a column of a usual name tells slices apart and is not the slice key."""
    if count > 1:
        warnings.warn(
            f"obs[{key!r}] tells {count} slices apart, but all cells are taken as one; "
            f"if they are not, give the slice key {key!r}",
            stacklevel=3,
        )


def checked_frame(rows: sp.csr_matrix | np.ndarray, positions: np.ndarray, min_cells: int) -> Frame:
    """:func:`~stofm_geo.data.canonical_frame` of what can be a tissue graph.

    Raises:
        ValueError: Less than ``min_cells`` cells, or all of them at one place.
    """
    check_enough(len(positions), min_cells)
    if doubled := len(positions) - len(distinct(positions)):
        warnings.warn(
            f"{doubled} of {len(positions)} cells lie exactly where another does; "
            "drop them if they are copies or have no position",
            stacklevel=3,
        )
    return canonical_frame(rows, positions)


def check_enough(cells: int, min_cells: int) -> None:
    """Whether there are cells enough for a tissue graph.

    Raises:
        ValueError: There are less than ``min_cells``.
    """
    if cells < min_cells:
        raise ValueError(
            f"{cells} cells are too few for a tissue graph of "
            f"{min_cells - 1} neighbours a cell; leave the slice out"
        )


def check_sizes(adata: AnnData, slice_key: str, min_cells: int) -> None:
    """:func:`check_enough` for all slices of an AnnData.

    Raises:
        ValueError: Some have less than ``min_cells``: which, and how to drop them.
    """
    sizes = check_slice_key(adata.obs, slice_key).value_counts()
    small = sizes[sizes < min_cells]
    if len(small):
        told = examples([f"{name!r}: {count}" for name, count in small.items()], 5)
        raise ValueError(
            f"{len(small)} of {len(sizes)} slices have too few cells for a tissue graph of "
            f"{min_cells - 1} neighbours a cell ({told}); drop them: "
            f"adata = adata[adata.obs.groupby({slice_key!r}, observed=True)[{slice_key!r}]"
            f".transform('size') >= {min_cells}].copy()"
        )


def slice_rows(adata: AnnData, slice_key: str | None, name: str) -> dict[str, np.ndarray]:
    """What messages call each slice, and the rows of its cells; all are one without a key."""
    if slice_key is None:
        return {name: np.arange(adata.n_obs)}
    code = check_slice_key(adata.obs, slice_key)
    return {
        f"{name}, slice {category!r}": np.flatnonzero(code.codes == i)
        for i, category in enumerate(code.categories)
    }


def slice_graph(part: AnnData, features: CellFeatures) -> Data:
    """A slice of :func:`split_slices` as a graph without edges; ``n_id`` is the source's row."""
    with naming(part.uns["name"]):
        data = from_anndata(part, features)
    data.n_id = torch.from_numpy(part.obs["row"].to_numpy().copy())
    return data
