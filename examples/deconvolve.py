"""Cell types of spots that hold several cells, from a labelled reference.

``python examples/deconvolve.py [SPOTS.h5ad REFERENCE.h5ad]``; without files, spots of 55 um made of
a slice of a toy tissue, from another slice. A labelled slice alone is cut up and its own reference.
"""

import sys

import anndata
import numpy as np
import pandas as pd

import stofm_geo


def spots_of(cells: anndata.AnnData, side: float = 55.0) -> tuple[anndata.AnnData, pd.DataFrame]:
    """Squares of a slice, and the true shares of cell types in them."""
    place = np.floor(cells.obsm["spatial"] / side).astype(int)
    groups = cells.obs.groupby([place[:, 0], place[:, 1]]).indices.values()
    spots = anndata.AnnData(np.stack([np.ravel(cells.X[rows].sum(axis=0)) for rows in groups]))
    spots.var_names = cells.var_names
    share = [cells.obs["cell_type"].iloc[rows].value_counts(normalize=True) for rows in groups]
    return spots, pd.DataFrame([s.astype(float) for s in share], index=spots.obs_names)


truth = None
if sys.argv[2:]:
    spots, reference = (anndata.read_h5ad(file) for file in sys.argv[1:])
else:
    toy = stofm_geo.datasets.toy_tissue(2000, n_slices=2)
    slices = [toy[toy.obs["slice_id"] == name].copy() for name in ("slice1", "slice2")]
    cells, reference = [anndata.read_h5ad(sys.argv[1])] * 2 if sys.argv[1:] else slices
    spots, truth = spots_of(cells)

stofm_geo.tl.deconvolve(spots, reference)
share = spots.obsm["stofm_proportions"]  # n x types, rows sum to 1
print(share.mean().round(3).to_string())
if truth is not None:
    error = share - truth.reindex(columns=share.columns).fillna(0)
    print(f"root mean square error: {np.sqrt((error.to_numpy() ** 2).mean()):.3f}")
