"""Pseudo-spots whose cells are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._linalg import membership_matrix
from stofm_geo.benchmark.problems import LABEL


def spots(part: AnnData, side: float, turn: float) -> tuple[AnnData, pd.DataFrame]:
    """Sum a slice's cells over squares; return spots and the shares of labels in each.

    Args:
        part: With ``obs["label"]``, all cells.
        side: Of the squares, in units of its positions.
        turn: Angle of the squares, in radians; it also shifts them.
    """
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    pos = np.asarray(part.obsm["spatial"], dtype=np.float64)
    place = np.floor((pos @ rotation + turn * side) / side)
    place, spot = np.unique(place, axis=0, return_inverse=True)
    gather = membership_matrix(spot.ravel())
    counts = sp.csr_matrix(gather @ part.X, dtype=np.float32)
    out = AnnData(counts, var=pd.DataFrame(index=part.var_names))
    out.obs_names = [f"spot{i}" for i in range(out.n_obs)]
    out.obsm["spatial"] = (place + 0.5 - turn) @ rotation.T * side
    types = pd.get_dummies(part.obs[LABEL].astype(str))
    truth = gather @ types.to_numpy(dtype=float)
    share = truth / truth.sum(axis=1, keepdims=True)
    return out, pd.DataFrame(share, index=out.obs_names, columns=types.columns)
