"""Pseudospots with known cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._linalg import membership_matrix
from stofm_geo.benchmark.problems import LABEL


def spots(adata: AnnData, side: float, angle: float) -> tuple[AnnData, pd.DataFrame]:
    """Sum the cells of a slice over a square grid; return spots and their label proportions.

    Args:
        adata: Slice with ``obs["label"]`` of all cells.
        side: Side of the squares, in units of the positions.
        angle: Rotation of the grid in radians; it also shifts the grid.
    """
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pos = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    square = np.floor((pos @ rotation + angle * side) / side)
    square, spot = np.unique(square, axis=0, return_inverse=True)
    gather = membership_matrix(spot.ravel())
    counts = sp.csr_matrix(gather @ adata.X, dtype=np.float32)
    out = AnnData(counts, var=pd.DataFrame(index=adata.var_names))
    out.obs_names = [f"spot{i}" for i in range(out.n_obs)]
    out.obsm["spatial"] = (square + 0.5 - angle) @ rotation.T * side
    types = pd.get_dummies(adata.obs[LABEL].astype(str))
    truth = gather @ types.to_numpy(dtype=float)
    proportions = truth / truth.sum(axis=1, keepdims=True)
    return out, pd.DataFrame(proportions, index=out.obs_names, columns=types.columns)
