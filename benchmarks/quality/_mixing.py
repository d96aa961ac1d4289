"""How far slices mix and labels stay apart in an embedding: LISI and kBET, after their papers."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS, PERPLEXITY = 90, 30
_LEAST, _MOST = 10, 70  # neighbours that kBET tests
_LEVEL = 0.05


def neighbours(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest others, ``[n, k]`` each."""
    distance, index = NearestNeighbors(n_neighbors=k + 1).fit(vectors).kneighbors(vectors)
    return distance[:, 1:], index[:, 1:]


def lisi(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Effective number of groups around each row, ``[n]`` (Korsunsky et al. 2019).

    The inverse Simpson index of the 90 nearest neighbours, weighted by a Gaussian of perplexity 30.
    """
    distance, index = neighbours(vectors, min(NEIGHBOURS, len(vectors) - 1))
    weight = _gaussian(distance, min(PERPLEXITY, len(vectors) / 3))
    code = np.unique(group, return_inverse=True)[1]
    share = np.stack([(weight * (code[index] == i)).sum(axis=1) for i in range(code.max() + 1)])
    return 1 / (share**2).sum(axis=0)


def ilisi(vectors: np.ndarray, slices: np.ndarray) -> float:
    """Median LISI of slices, from 0, apart, to 1, mixed, as Luecken et al. 2022 scale it."""
    return float((np.median(lisi(vectors, slices)) - 1) / (len(np.unique(slices)) - 1))


def clisi(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Median LISI of labels, from 0, mixed, to 1, apart, as Luecken et al. 2022 scale it."""
    count = len(np.unique(labels))
    return float((count - np.median(lisi(vectors, labels))) / (count - 1))


def kbet(vectors: np.ndarray, slices: np.ndarray, labels: np.ndarray) -> float:
    """Share of cells around which slices have the shares that they have of a label.

    Büttner et al. 2019: a chi-squared test of the k nearest cells of the same label, k a quarter of
    the cells that a slice has of it, from 10 to 70; mean over labels that several slices have.
    """
    accepted = []
    for name in np.unique(labels):
        rows = labels == name
        code, size = np.unique(slices[rows], return_inverse=True, return_counts=True)[1:]
        k = int(np.clip(size.mean() // 4, _LEAST, _MOST))
        if len(size) < 2 or len(code) < 3 * k:
            continue
        near = code[neighbours(vectors[rows], k)[1]]
        seen = np.stack([(near == i).sum(axis=1) for i in range(len(size))], axis=1)
        expected = k * size / len(code)
        statistic = ((seen - expected) ** 2 / expected).sum(axis=1)
        accepted.append((chi2.sf(statistic, len(size) - 1) >= _LEVEL).mean())
    return float(np.mean(accepted))


def _gaussian(distance: np.ndarray, perplexity: float) -> np.ndarray:
    """Weights ``[n, k]`` of sum 1 whose entropy is ``log(perplexity)``, by bisection."""
    square = distance**2
    square = square - square[:, :1]
    low = np.full((len(square), 1), -40.0)  # of the logarithm of the precision
    high = -low
    for _ in range(60):
        middle = (low + high) / 2
        weight = np.exp(-square * np.exp(middle))
        total = weight.sum(axis=1, keepdims=True)
        share = weight / total
        entropy = np.log(total) + np.exp(middle) * (share * square).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return share
