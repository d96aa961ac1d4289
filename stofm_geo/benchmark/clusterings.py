"""Clusterings by which embeddings are compared, the same for all methods."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.cluster import AgglomerativeClustering
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph

from stofm_geo._keys import Keys
from stofm_geo.tasks.domains import domains
from stofm_geo.transforms.leiden import leiden

COMPONENTS, NEIGHBOURS = 30, 15


def components(vectors: np.ndarray) -> np.ndarray:
    """Return the first 30 principal components of vectors ``[n, D]``, ``[n, min(30, D)]``."""
    count = min(COMPONENTS, vectors.shape[1])
    return PCA(count, svd_solver="full").fit_transform(vectors.astype(np.float64))


def kmeans_mixture(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Fit a Gaussian mixture with one covariance, initialised by k-means (scikit-learn)."""
    mixture = GaussianMixture(count, covariance_type="tied", random_state=seed)
    return mixture.fit_predict(x)


def ward_mixture(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Fit the same mixture, initialised by Ward clustering; ``seed`` is unused."""
    label = AgglomerativeClustering(count).fit_predict(x)
    member = np.eye(count)[label]
    mean = (member / member.sum(axis=0)).T @ x
    residual = x - mean[label]
    covariance = residual.T @ residual / len(x) + 1e-6 * np.eye(x.shape[1])
    mixture = GaussianMixture(
        count,
        covariance_type="tied",
        weights_init=member.mean(axis=0),
        means_init=mean,
        precisions_init=np.linalg.inv(covariance),
    )
    return mixture.fit_predict(x)


def leiden_clusters(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cluster the graph of 15 nearest neighbours at a resolution that gives ``count`` clusters."""
    graph = kneighbors_graph(x, NEIGHBOURS)
    pairs = np.stack(sp.triu(graph + graph.T, k=1).nonzero(), axis=1)
    low, high, best = 0.0, 3.0, np.zeros(len(x), dtype=int)
    for _ in range(20):  # bisection
        middle = (low + high) / 2
        label = leiden(len(x), pairs, resolution=middle, seed=seed)
        if abs(label.max() + 1 - count) < abs(best.max() + 1 - count):
            best = label
        if label.max() + 1 == count:
            break
        low, high = (middle, high) if label.max() + 1 < count else (low, middle)
    return best


CLUSTERINGS = {
    "k-means, mixture": kmeans_mixture,
    "Ward, mixture": ward_mixture,
    "Leiden": leiden_clusters,
}
SEEDS = {"k-means, mixture": 5, "Ward, mixture": 1, "Leiden": 5}  # Ward clustering is deterministic


def library_domains(vectors: np.ndarray, pos: np.ndarray, count: int, refine: bool) -> np.ndarray:
    """Return ``tl.domains`` of vectors ``[n, D]`` at positions ``[n, 2]``, optionally refined."""
    adata = AnnData(obsm={"vectors": vectors, Keys.SPATIAL: pos})
    domains(adata, count, use_rep="vectors", refine=refine, key_added="domain")
    return adata.obs["domain"].cat.codes.to_numpy()
