"""One slice of tissue in its canonical pose: what every function of the library works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from stofm_geo._keys import Keys


@dataclass(frozen=True, eq=False)
class TissueSlice:
    """The cells of one slice that have counts, in canonical order and pose.

    Made by :func:`~stofm_geo.data.split_slices`; see :func:`~stofm_geo.data.canonical_pose`.

    Attributes:
        name: Name of the slice in messages.
        adata: Cells ``[n]``: counts in ``X`` (float32 CSR) or vectors in ``obsm``; positions in
            ``obsm["spatial"]``; ``uns["technology"]`` where the source has it.
        row: Row of each cell in the source, ``[n]``.
        spacing: Cell spacing (median distance to the 6th nearest cell), in units of the source.
        empty: Rows in the source of the cells of this slice that have no counts.
        source_cells: Number of cells of the source, over all slices.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.data import split_slices
        >>> part = split_slices(datasets.toy_tissue(200, 30, seed=0), name="tissue")[0]
        >>> part.name, len(part), part.pos.shape
        ('tissue', 200, (200, 2))
    """

    name: str
    adata: AnnData
    row: np.ndarray
    spacing: float
    empty: np.ndarray
    source_cells: int

    @property
    def pos(self) -> np.ndarray:
        """Positions in cell spacings, ``[n, 2]`` float64."""
        return self.adata.obsm[Keys.SPATIAL]

    def __len__(self) -> int:
        return len(self.row)
