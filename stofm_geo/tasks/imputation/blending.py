"""Predict values of cells from features: ridge regression, nearest neighbours and clusters."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from stofm_geo._linalg import membership_matrix

_NEAR = 50
_STRENGTHS = (0.1, 1.0, 10.0)  # of the ridge, in mean variances of a feature
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the ridge beside the near cells
_KINDS = (8, 16, 32, 64)
_LEADING = 30  # features that kinds are told by
_SHARPNESS = 4.0  # of their membership
BLENDS = [(s, share) for s in range(len(_STRENGTHS)) for share in _SHARES]


class RidgeKnn:
    """Ridge regressions and a k-nearest-neighbour mean on one set of features.

    Args:
        known: Features of the cells with known values, ``[m, F]``.
        asked: Features of the cells to predict, ``[n, F]``.
    """

    def __init__(self, known: np.ndarray, asked: np.ndarray) -> None:
        near = NearestNeighbors(n_neighbors=min(_NEAR, len(known)), algorithm="brute").fit(known)
        self.near = near.kneighbors(asked, return_distance=False)
        mean = known.mean(axis=0)
        self.known, self.asked = known - mean, asked - mean
        gram = self.known.T @ self.known
        size, one = max(np.trace(gram) / len(gram), 1e-12), np.eye(len(gram))
        self.inverses = [np.linalg.inv(gram + strength * size * one) for strength in _STRENGTHS]

    def predict(self, y: np.ndarray) -> np.ndarray:
        """Return the neighbour mean, then a ridge of each strength: ``[1 + strengths, n, G]``.

        Args:
            y: Known values, ``[m, G]``.
        """
        mean = y.mean(axis=0)
        along = self.known.T @ (y - mean)
        ridges = [mean + self.asked @ (inverse @ along) for inverse in self.inverses]
        near = np.zeros((len(self.asked), y.shape[1]))
        for column in self.near.T:  # a neighbour at a time: [n, 50, G] would not fit
            near += y[column]
        return np.stack([near / self.near.shape[1], *ridges])


class ClusterMeans:
    """Means of k-means clusters, at several numbers of clusters, with soft assignment.

    A cluster mean averages many cells and has little noise: for rarely counted genes it predicts
    better than the nearest cells.

    Args:
        known: Features of the cells with known values, by descending variance, ``[m, F]``.
        asked: Features of the cells to predict, ``[n, F]``.
    """

    def __init__(self, known: np.ndarray, asked: np.ndarray) -> None:
        known, asked = known[:, :_LEADING], asked[:, :_LEADING]
        self.kinds: list[tuple[np.ndarray, np.ndarray]] = []
        for count in sorted({min(count, max(len(known) // 2, 1)) for count in _KINDS}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different cells
                found = KMeans(count, random_state=0).fit(known)
            filled, kind = np.unique(found.labels_, return_inverse=True)
            spread = max(found.inertia_ / len(known), 1e-12)
            far = found.transform(asked)[:, filled] ** 2 / spread
            self.kinds.append((kind, softmax(-_SHARPNESS * far, axis=1)))

    def predict(self, y: np.ndarray) -> np.ndarray:
        """Return the cluster means of each cell, averaged over the clusterings: ``[1, n, G]``.

        Args:
            y: Known values, ``[m, G]``.
        """
        told = [
            share @ (membership_matrix(kind) @ y / np.bincount(kind)[:, None])
            for kind, share in self.kinds
        ]
        return np.mean(told, axis=0)[None]


def blend(predictions: np.ndarray, which: tuple[int, float]) -> np.ndarray:
    """Return one of :data:`BLENDS` of the predictions, ``[n, G]``."""
    strength, share = which
    return (1 - share) * predictions[0] + share * predictions[1 + strength]


def correlations(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of each column, ``[G]``; 0 where one side is constant."""
    found, truth = found - found.mean(axis=0), truth - truth.mean(axis=0)
    size = np.sqrt((found**2).sum(axis=0) * (truth**2).sum(axis=0))
    return np.where(size > 0, (found * truth).sum(axis=0) / np.where(size > 0, size, 1), 0.0)
