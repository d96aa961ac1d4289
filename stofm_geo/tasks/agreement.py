"""How far slices agree in an embedding: a criterion for integration that takes no labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

_NEIGHBOURS = 30
_MOST, _ASKED = 20_000, 4_000  # cells that are compared, and of them those whose neighbours count


@dataclass(frozen=True)
class Agreement:
    """How far slices agree in an embedding.

    Attributes:
        mixing: Share of a cell's 30 nearest neighbours in the embedding that are of other slices,
            divided by the share of cells that are (mean over the slices' means): 0 where slices lie
            apart, 1 where slice and embedding are independent.
        correspondence: Whether a place of one slice has its counterpart in the others. From a cell
            to the nearest cell of all other slices in the embedding, and from there to the nearest
            other cell of the first slice: of that slice's cells, ``r`` is the share that lie nearer
            in space to the first cell than the last one does. Correspondence is ``1 - 2 r`` (mean
            over the slices' means, at least 0): 1 where all round trips end beside their start, 0
            where they end anywhere.
    """

    mixing: float
    correspondence: float

    @property
    def score(self) -> float:
        """Return mixing times correspondence: mixed slices count only as far as places match.

        Noise mixes slices and has no correspondence. Slices that lie apart have no mixing.
        """
        return self.mixing * self.correspondence


def agreement(parts: np.ndarray, slices: np.ndarray, positions: np.ndarray) -> Agreement:
    """Compute how far slices agree in an embedding.

    At most 20 000 cells are compared, and the neighbours of 4 000 of them: evenly spaced rows of
    each slice.

    Args:
        parts: Embeddings, ``[n, D]``, rows of a slice in an order that means nothing.
        slices: Number of each row's slice, from 0, ``[n]``; two slices or more.
        positions: Within its slice, ``[n, 2]``.
    """
    kept = _spread(slices, _MOST)
    parts, slices, positions = parts[kept], slices[kept], positions[kept]
    asked = _spread(slices, _ASKED)
    size = np.bincount(slices)
    k = min(_NEIGHBOURS, len(parts) - 1)
    near = NearestNeighbors(n_neighbors=k + 1).fit(parts).kneighbors(parts[asked])[1]
    other = (slices[near] != slices[asked][:, None]) & (near != asked[:, None])
    mixed = other.sum(axis=1) / k / (1 - size[slices[asked]] / len(parts))
    astray = np.empty(len(asked))
    for number in np.unique(slices):
        own, rest = np.flatnonzero(slices == number), np.flatnonzero(slices != number)
        rows = np.flatnonzero(slices[asked] == number)
        start = asked[rows]
        there = rest[_nearest(parts[rest], parts[start])]
        end = own[_nearest(parts[own], parts[there], other_than=np.searchsorted(own, start))]
        gap = np.linalg.norm(positions[end] - positions[start], axis=1)
        nearer = cKDTree(positions[own]).query_ball_point(
            positions[start], gap * (1 - 1e-9), return_length=True
        )
        astray[rows] = nearer / len(own)
    of = np.eye(len(size))[slices[asked]]
    mixing, far = (np.stack([mixed, astray]) @ of / of.sum(axis=0)).mean(axis=1)
    return Agreement(float(mixing), float(max(1 - 2 * far, 0)))


def _nearest(of: np.ndarray, to: np.ndarray, other_than: np.ndarray | None = None) -> np.ndarray:
    """Return the row of ``of`` that is nearest to each row of ``to``, other than the given one."""
    near = NearestNeighbors(n_neighbors=min(2, len(of))).fit(of)
    first = near.kneighbors(to, return_distance=False)
    if other_than is None:
        return first[:, 0]
    return np.where(first[:, 0] == other_than, first[:, -1], first[:, 0])


def _spread(slices: np.ndarray, most: int) -> np.ndarray:
    """Return evenly spaced rows of each slice, about ``most`` in all, sorted."""
    step = max(-(-len(slices) // most), 1)
    return np.sort(np.concatenate([np.flatnonzero(slices == i)[::step] for i in np.unique(slices)]))
