"""Virtual cells as the published model has them: communities of place and expression together."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

from stofm_geo._linalg import membership_matrix
from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.models.official.slices import normalized
from stofm_geo.transforms.leiden import leiden

_NEIGHBORS = 10  # the cell itself counted


def macro_nodes(
    positions: np.ndarray,
    features: np.ndarray,
    alpha: float = 0.2,
    resolution: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one macro node per community: mean position and mean features of its cells.

    Communities are Leiden's on a fuzzy graph (UMAP's) of each cell's 9 nearest, by two numbers a
    cell: ``alpha`` times its position plus ``1 - alpha`` times its two principal components, each
    divided by its greatest norm. x is added to the first component and y to the second, so they
    change when the slice is turned; the weights have learned with that.

    Args:
        positions: Of the cells, ``[n, 2]``, any unit.
        features: ``[n, F]``.
        alpha: Share of the position (default 0.2).
        resolution: Of Leiden's modularity; higher gives more virtual cells (default 1).
        seed: Of Leiden's order of cells.

    Returns:
        Positions ``[m, 2]``, centred and with a bounding box of diagonal 100 (of the cells), and
        features ``[m, F]``.

    Raises:
        ValueError: Unfit positions or features, or fewer than 3 cells.
    """
    check_fraction("alpha", alpha)
    check_positive("resolution", resolution)
    pos = normalized(positions)
    features = np.asarray(features)
    n = len(pos)
    if features.ndim != 2 or len(features) != n or features.shape[1] < 2:
        raise ValueError(f"features must be [{n}, F], F 2 or more; found {list(features.shape)}")
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinite values")
    if n < 3:
        raise ValueError(f"virtual cells need 3 cells or more; found {n}")
    principal = PCA(n_components=2).fit_transform(features)
    place = alpha * _by_greatest(pos) + (1 - alpha) * _by_greatest(principal)
    graph = sp.triu(_fuzzy(place, min(_NEIGHBORS, n)), k=1).tocoo()
    pairs = np.stack([graph.row, graph.col], axis=1)
    label = leiden(n, pairs, graph.data, resolution=resolution, seed=seed)
    count = np.bincount(label)[:, None]
    member = membership_matrix(label)
    return member @ pos / count, (member @ features / count).astype(features.dtype)


def _by_greatest(vectors: np.ndarray) -> np.ndarray:
    return vectors / max(np.sqrt((vectors**2).sum(axis=1).max()), np.finfo(np.float64).tiny)


def _fuzzy(points: np.ndarray, k: int) -> sp.csr_matrix:
    r"""Weights of the graph of ``k`` nearest (the point counted), as UMAP has them.

    From a point, :math:`w = e^{-(d - \rho)^+ / \sigma}`, :math:`\rho` the distance to the nearest
    point elsewhere, :math:`\sigma` such that the weights sum to :math:`\log_2 k`; and of the two
    directions :math:`a + b - a b` (McInnes et al. 2018, algorithm 3).
    """
    n = len(points)
    distance, near = cKDTree(points).query(points, k=k, workers=-1)
    distance, near = distance[:, 1:], near[:, 1:]
    rho = np.where(distance > 0, distance, np.inf).min(axis=1, initial=np.inf)
    rho[~np.isfinite(rho)] = 0  # all at one place
    beyond = np.maximum(distance - rho[:, None], 0)
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    for _ in range(64):
        above = np.exp(-beyond / sigma[:, None]).sum(axis=1) > np.log2(k)
        high[above], low[~above] = sigma[above], sigma[~above]
        sigma = np.where(np.isinf(high), 2 * sigma, (low + high) / 2)
    least = np.where(rho > 0, distance.mean(axis=1), distance.mean()) * 1e-3
    sigma = np.maximum(sigma, np.maximum(least, np.finfo(np.float64).tiny))
    weight = np.exp(-beyond / sigma[:, None])
    one_way = sp.csr_matrix(
        (weight.ravel(), (np.repeat(np.arange(n), k - 1), near.ravel())), (n, n)
    )
    return one_way + one_way.T - one_way.multiply(one_way.T)
