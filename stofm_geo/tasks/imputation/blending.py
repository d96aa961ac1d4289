"""Predictors of values of cells: ridge regression, nearest neighbours and cluster means."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from stofm_geo._linalg import membership_matrix

_NEIGHBORS = 50
_STRENGTHS = (0.1, 1.0, 10.0)  # of ridge regression, in mean variances of a feature
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # weights of ridge regression against the neighbour mean
_CLUSTERS = (8, 16, 32, 64)
_CLUSTER_FEATURES = 30  # leading features used for clustering
_SHARPNESS = 4.0  # of the soft assignment
# Combinations of a ridge strength (index) and a weight of ridge regression.
BLENDS = [(s, share) for s in range(len(_STRENGTHS)) for share in _SHARES]


class RidgeKnn:
    """Ridge regressions and a k-nearest-neighbour mean on one set of features.

    Args:
        known: Features of the cells with known values, ``[m, F]``.
        query: Features of the cells to predict, ``[n, F]``.
    """

    def __init__(self, known: np.ndarray, query: np.ndarray) -> None:
        neighbors = NearestNeighbors(
            n_neighbors=min(_NEIGHBORS, len(known)), algorithm="brute"
        ).fit(known)
        self.neighbors = neighbors.kneighbors(query, return_distance=False)
        mean = known.mean(axis=0)
        self.known, self.query = known - mean, query - mean
        gram = self.known.T @ self.known
        size, identity = max(np.trace(gram) / len(gram), 1e-12), np.eye(len(gram))
        self.inverses = [
            np.linalg.inv(gram + strength * size * identity) for strength in _STRENGTHS
        ]

    def predict(self, y: np.ndarray) -> np.ndarray:
        """Return the neighbour mean and the ridge predictions, ``[1 + strengths, n, G]``.

        Args:
            y: Known values, ``[m, G]``.
        """
        mean = y.mean(axis=0)
        covariance = self.known.T @ (y - mean)
        ridges = [mean + self.query @ (inverse @ covariance) for inverse in self.inverses]
        neighbors = np.zeros((len(self.query), y.shape[1]))
        for (
            column
        ) in self.neighbors.T:  # one neighbour at a time: [n, 50, G] would not fit in memory
            neighbors += y[column]
        return np.stack([neighbors / self.neighbors.shape[1], *ridges])


class ClusterMeans:
    """Means of k-means clusters, at several numbers of clusters, with soft assignment.

    A cluster mean averages many cells and has little noise: for rarely counted genes it predicts
    better than the nearest cells.

    Args:
        known: Features of the cells with known values, by descending variance, ``[m, F]``.
        query: Features of the cells to predict, ``[n, F]``.
    """

    def __init__(self, known: np.ndarray, query: np.ndarray) -> None:
        known, query = known[:, :_CLUSTER_FEATURES], query[:, :_CLUSTER_FEATURES]
        self.assignments: list[tuple[np.ndarray, np.ndarray]] = []
        for count in sorted({min(count, max(len(known) // 2, 1)) for count in _CLUSTERS}):
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", ConvergenceWarning
                )  # fewer distinct cells than clusters
                kmeans = KMeans(count, random_state=0).fit(known)
            nonempty, cluster = np.unique(kmeans.labels_, return_inverse=True)
            spread = max(kmeans.inertia_ / len(known), 1e-12)
            distance = kmeans.transform(query)[:, nonempty] ** 2 / spread
            self.assignments.append((cluster, softmax(-_SHARPNESS * distance, axis=1)))

    def predict(self, y: np.ndarray) -> np.ndarray:
        """Return the cluster means of each cell, averaged over the clusterings, ``[1, n, G]``.

        Args:
            y: Known values, ``[m, G]``.
        """
        means = [
            weights @ (membership_matrix(cluster) @ y / np.bincount(cluster)[:, None])
            for cluster, weights in self.assignments
        ]
        return np.mean(means, axis=0)[None]


def blend(predictions: np.ndarray, choice: tuple[int, float]) -> np.ndarray:
    """Combine :meth:`RidgeKnn.predict` by one of :data:`BLENDS`, ``[n, G]``."""
    strength, share = choice
    return (1 - share) * predictions[0] + share * predictions[1 + strength]


def correlations(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of each column, ``[G]``; 0 where one side is constant."""
    predicted, truth = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    norm = np.sqrt((predicted**2).sum(axis=0) * (truth**2).sum(axis=0))
    return np.where(norm > 0, (predicted * truth).sum(axis=0) / np.where(norm > 0, norm, 1), 0.0)
