"""Grouping of the cells of an AnnData by slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from stofm_geo._anndata_checks import check_slice_key
from stofm_geo._stacked import resolve_slice_key


@dataclass(frozen=True, eq=False)
class SliceLabels:
    """The slice of each cell.

    Attributes:
        codes: Index of the slice of each cell, ``[n]`` int64.
        names: Names of the slices, sorted; empty if all cells are one slice.
        key: Column of ``obs`` with the names; ``None`` if all cells are one slice.
    """

    codes: np.ndarray
    names: list[str]
    key: str | None

    def rows(self) -> list[np.ndarray]:
        """Return the rows of each slice."""
        if self.key is None:
            return [np.arange(len(self.codes))]
        return [np.flatnonzero(self.codes == number) for number in range(len(self.names))]


def label_slices(
    adata: AnnData,
    positions: np.ndarray | None,
    spatial_key: str,
    slice_key: str | None,
    *,
    beside: bool = False,
) -> SliceLabels:
    """Return the slice of each cell.

    Args:
        adata: Cells or spots.
        positions: Positions of the cells, ``[n, 2]``; ``None``: there are none.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` with the slice of each cell; ``None``: all cells are one slice,
            unless ``uns["spatialdata_attrs"]`` names several regions, which are slices.
        beside: Also warn of a usual slice column if slices lie beside each other.

    Raises:
        KeyError: ``obs`` lacks the column.
        ValueError: The column has missing values.

    Warns:
        UserWarning: See :func:`~stofm_geo._stacked.resolve_slice_key`.
    """
    if positions is not None:
        slice_key = resolve_slice_key(adata, positions, spatial_key, slice_key, beside=beside)
    if slice_key is None:
        return SliceLabels(np.zeros(adata.n_obs, dtype=np.int64), [], None)
    labels = check_slice_key(adata.obs, slice_key)
    return SliceLabels(labels.codes.astype(np.int64), list(labels.categories), slice_key)
