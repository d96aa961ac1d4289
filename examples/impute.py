"""Genes that a panel lacks, from a reference that has them.

``python examples/impute.py [SLICE.h5ad REFERENCE.h5ad]``; without files, two slices of a toy
tissue, in one of which every fifth gene is hidden. Of a slice alone, one half is told from the
other.
"""

import sys

import anndata
import numpy as np

import stofm_geo

if sys.argv[2:]:
    adata, reference = (anndata.read_h5ad(file) for file in sys.argv[1:])
elif sys.argv[1:]:
    whole = anndata.read_h5ad(sys.argv[1])
    x = whole.obsm["spatial"][:, 0]
    adata, reference = whole[x < np.median(x)].copy(), whole[x >= np.median(x)].copy()
else:
    toy = stofm_geo.datasets.toy_tissue(2000, n_slices=2)
    adata, reference = (toy[toy.obs["slice_id"] == s].copy() for s in ("slice1", "slice2"))
hidden = None if sys.argv[2:] else list(reference.var_names[::5])

stofm_geo.tl.impute(adata, reference, hidden)
values = adata.obsm["stofm_imputed"]  # n x genes, log-normalised
trust = adata.uns["stofm_imputed"]["reliability"]["correlation"]
print("told best, and worst, in the reference:")
print(trust.sort_values(ascending=False).iloc[[0, 1, 2, -2, -1]].round(3).to_string())
if hidden:
    counted = np.log1p(adata[:, hidden].X.toarray())
    known = [g for g, name in enumerate(hidden) if counted[:, g].any()]
    right = [np.corrcoef(values[hidden[g]], counted[:, g])[0, 1] for g in known]
    print(f"correlation with what was counted: {np.mean(right):.3f}, expected {trust.mean():.3f}")
