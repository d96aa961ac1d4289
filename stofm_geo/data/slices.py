"""The slices of an AnnData, each in its canonical pose."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch_geometric.data import Data

from stofm_geo._anndata_checks import check_anndata, check_obsm, check_positions
from stofm_geo._keys import Keys
from stofm_geo._slices import SliceLabels, label_slices
from stofm_geo._validation import error_context, preview
from stofm_geo.data.anndata import from_anndata
from stofm_geo.data.canonical_pose import CanonicalPose, canonical_pose
from stofm_geo.data.tissue_slice import TissueSlice
from stofm_geo.genes import CellFeatures, as_counts
from stofm_geo.genes.controls import gene_mask, warn_of_left_out_controls
from stofm_geo.transforms.neighbor_search import unique_positions


def split_slices(
    adata: AnnData,
    *,
    features_key: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    name: str = "AnnData",
    min_cells: int = 1,
    genes: Collection[str] | None = None,
) -> list[TissueSlice]:
    """Check an AnnData and split it into slices, each in its canonical pose.

    Cells without counts are left out, since they would be neighbours of other cells without
    information. Control probes and other features that are not genes are left out, too.

    Args:
        adata: Cells or spots.
        features_key: Key in ``obsm`` of the features; ``None``: counts in ``X`` are used.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one slice,
            unless ``uns["spatialdata_attrs"]`` names several regions, which are slices.
        name: Name of ``adata`` in messages, such as a file name.
        min_cells: Minimum number of cells with counts of a slice (default 1).
        genes: Names of the genes that decide whether a cell has counts; ``None``: all genes.

    Returns:
        One :class:`~stofm_geo.data.TissueSlice` for each slice.

    Warns:
        UserWarning: Cells have no counts, features are not genes, or slices are not told apart.

    Raises:
        KeyError: A key does not exist.
        ValueError: There are too few cells, all cells are at one place, or positions, counts or
            features are invalid.
        TypeError: ``adata`` is not an AnnData, or positions, counts or features are not numbers.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.data import split_slices
        >>> adata = datasets.toy_tissue(200, 30, n_slices=2, seed=0)
        >>> [(part.name, len(part)) for part in split_slices(adata, slice_key="slice_id")]
        [("AnnData, slice 'slice1'", 100), ("AnnData, slice 'slice2'", 100)]
    """
    check_anndata(adata, name)
    with error_context(name):
        if adata.n_obs == 0:
            raise ValueError("there are no cells")
        positions = check_positions(adata, spatial_key)
        if features_key is None:
            values, names = _of_genes(adata, genes)
            full = with_counts(values, names, genes)
        else:
            values = check_obsm(adata, features_key)
            full = np.ones(adata.n_obs, dtype=bool)
        labels = label_slices(adata, positions, spatial_key, slice_key, beside=True)
        check_sizes(labels, min_cells)
    key = Keys.TECHNOLOGY
    technology = {key: str(adata.uns[key])} if key in adata.uns else {}
    slices = []
    for slice_name, rows in rows_by_slice(labels, name).items():
        with error_context(slice_name):
            rows, empty = rows[full[rows]], rows[~full[rows]]
            # A copy is as large as the file.
            own = values if len(rows) == adata.n_obs else values[rows]
            columns = names if features_key is None else None
            order, pos, spacing = checked_pose(own, positions[rows], min_cells, columns)
        rows = rows[order]
        part = AnnData(
            X=values[rows] if features_key is None else None,
            obs=pd.DataFrame(index=adata.obs_names[rows].astype(str)),
            var=pd.DataFrame(index=names) if features_key is None else None,
            obsm={Keys.SPATIAL: pos},
            uns=technology,
        )
        if features_key is not None:
            part.obsm[features_key] = values[rows]
        slices.append(TissueSlice(slice_name, part, rows, spacing, empty, adata.n_obs))
    return slices


def _of_genes(adata: AnnData, known: Collection[str] | None) -> tuple[sp.csr_matrix, pd.Index]:
    """Return counts and gene names, without control probes unless a model knows them."""
    counts = as_counts(adata, copy=False)
    genes = gene_mask(adata.var)
    if known is not None and not genes.all():
        genes |= adata.var_names.isin(known)
    if genes.all():
        return counts, adata.var_names
    warn_of_left_out_controls(adata.var, genes)
    return counts[:, genes], adata.var_names[genes]


def with_counts(
    counts: sp.csr_matrix, names: pd.Index, genes: Collection[str] | None = None
) -> np.ndarray:
    """Return which cells have counts, ``[n]`` bool, and say how many have none.

    Args:
        counts: ``[n, G]`` without explicit zeros.
        names: Of its genes.
        genes: Names of those whose counts matter; ``None``: all.

    Warns:
        UserWarning: Some have none.
    """
    of = "counts"
    used = np.ones(len(names), dtype=bool) if genes is None else names.isin(genes)
    if not used.all() and counts[:, used].nnz:  # without any, the model refuses them
        counts, of = counts[:, used], "counts of the model's genes"
    full = np.diff(counts.indptr) > 0
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} cells have no {of} and are left out: they are no "
            "neighbours of others, and their embedding is 0",
            stacklevel=3,
        )
    return full


def checked_pose(
    rows: sp.csr_matrix | np.ndarray,
    positions: np.ndarray,
    min_cells: int,
    names: Iterable[object] | None = None,
) -> CanonicalPose:
    """Return the :func:`~stofm_geo.data.canonical_pose` of cells that can be a tissue graph.

    Raises:
        ValueError: Less than ``min_cells`` cells, or all of them at one place.
    """
    check_enough(len(positions), min_cells)
    if doubled := len(positions) - len(unique_positions(positions)):
        warnings.warn(
            f"{doubled} of {len(positions)} cells lie exactly where another does; "
            "drop them if they are copies or have no position",
            stacklevel=3,
        )
    return canonical_pose(rows, positions, names)


def check_enough(cells: int, min_cells: int) -> None:
    """Check that there are enough cells (with counts) for a tissue graph.

    Raises:
        ValueError: There are less than ``min_cells``.
    """
    if cells < min_cells:
        raise ValueError(
            f"{cells} cells are too few for a tissue graph of "
            f"{min_cells - 1} neighbours a cell; leave the slice out"
        )


def check_sizes(labels: SliceLabels, min_cells: int) -> None:
    """Check that all slices of a key have enough cells; see :func:`check_enough`.

    Raises:
        ValueError: Some have less than ``min_cells``: which, and how to drop them.
    """
    sizes = [len(rows) for rows in labels.rows()] if labels.names else []
    of_slices = zip(labels.names, sizes, strict=True)
    small = [f"{name!r}: {size}" for name, size in of_slices if size < min_cells]
    if small:
        raise ValueError(
            f"{len(small)} of {len(sizes)} slices have too few cells for a tissue graph of "
            f"{min_cells - 1} neighbours a cell ({preview(small, 5)}); drop them: "
            f"adata = adata[adata.obs.groupby({labels.key!r}, observed=True)[{labels.key!r}]"
            f".transform('size') >= {min_cells}].copy()"
        )


def rows_by_slice(labels: SliceLabels, name: str) -> dict[str, np.ndarray]:
    """Return the rows of each slice by its name in messages, ``name`` that of the AnnData."""
    names = [f"{name}, slice {one!r}" for one in labels.names] or [name]
    return dict(zip(names, labels.rows(), strict=True))


def slice_graph(part: TissueSlice, features: CellFeatures) -> Data:
    """Return a slice as a graph without edges.

    Args:
        part: The slice, with ``n`` cells.
        features: Encoder of the cells; fitted here if it is not yet.

    Returns:
        ``Data`` with ``x`` ``[n, F]`` float32, ``pos`` ``[n, 2]`` float64 in cell spacings, and
        ``n_id`` ``[n]``, the row of each cell in the source.

    Raises:
        KeyError, TypeError, ValueError: As :func:`~stofm_geo.data.from_anndata`.

    Examples:
        >>> from stofm_geo import datasets, genes
        >>> from stofm_geo.data import slice_graph, split_slices
        >>> part = split_slices(datasets.toy_tissue(200, 30, seed=0))[0]
        >>> slice_graph(part, genes.PCAFeatures(8).fit([part.adata]))
        Data(x=[200, 8], pos=[200, 2], n_id=[200])
    """
    with error_context(part.name):
        data = from_anndata(part.adata, features)
    data.n_id = torch.from_numpy(part.row.copy())
    return data
