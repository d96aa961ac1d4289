"""A slice's own frame: an order of its cells and a pose that depend on nothing but the tissue.

The model sees only distances, so it cannot know how a slice was turned or how its rows were
sorted. What comes before and after it can: a Leiden clustering depends on the order of the nodes,
training on the order of the random numbers, and everything on the rounding of coordinates. So the
library first puts every slice into a frame of its own, and only then computes. A turned, shifted or
re-sorted slice becomes, but for one rounding in a million, the *same bytes*.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from stofm_geo.genes.counts import tidy
from stofm_geo.transforms.neighbor_search import spacing as cell_spacing

# Positions are rounded to this part of a cell spacing: far coarser than the rounding errors of a
# rotation, far finer than anything that matters (and finer than what counts as a tie).
GRID = 2.0**16


class CanonicalPose(NamedTuple):
    """Order and pose of a slice.

    Attributes:
        order: Row of each cell, ``[n]``: cell ``i`` of the slice is row ``order[i]``.
        pos: Positions in the pose, ``[n, 2]``, centred, in cell spacings.
        spacing: Cell spacing (median distance to the 6th nearest cell), in units of the input.

    Examples:
        >>> import numpy as np
        >>> from stofm_geo.data import canonical_pose
        >>> pose = canonical_pose(np.eye(3), np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]))
        >>> sorted(pose.order.tolist()), pose.pos.shape, pose.spacing
        ([0, 1, 2], (3, 2), 2.0)
    """

    order: np.ndarray
    pos: np.ndarray
    spacing: float


def canonical_pose(
    rows: sp.csr_matrix | np.ndarray, pos: np.ndarray, names: Iterable[object] | None = None
) -> CanonicalPose:
    """Return the canonical order and pose of a slice, independent of those of the input.

    Every cell gets a pseudo-random number from its row (counts or features). The cells weighted by
    it have a moment about the slice's centre, and the frame's x axis is the direction of that
    moment; cells are sorted by the number, then by position in the frame.

    Args:
        rows: Counts or features, which distinguish the cells, ``[n, columns]``.
        pos: Positions, ``[n, 2]`` float64, any unit.
        names: Names of the columns, so that their order does not matter; ``None``: it does.

    Returns:
        Order, positions in cell spacings, and the cell spacing.

    Raises:
        ValueError: There are several cells, all at one place.

    Examples:
        >>> import numpy as np
        >>> from stofm_geo.data import canonical_pose
        >>> rng = np.random.default_rng(0)
        >>> counts, pos = rng.poisson(3, (20, 5)), rng.random((20, 2))
        >>> pose = canonical_pose(counts, pos)
        >>> turned = canonical_pose(counts[::-1], pos[::-1] @ [[0, 1], [-1, 0]])
        >>> np.allclose(pose.pos, turned.pos, atol=1e-4)
        True
    """
    key = _row_keys(rows, names)
    spacing = cell_spacing(torch.from_numpy(pos))
    if spacing == 0 and len(pos) > 1:
        raise ValueError(
            f"all {len(pos)} cells are at one place ({pos[0, 0]:g}, {pos[0, 1]:g}); "
            "a slice needs cells at two places or more"
        )
    # fsum is exact: its result does not depend on the order of the rows.
    centre = [math.fsum(column) / len(pos) for column in pos.T]
    centred = (pos - centre) / (spacing or 1.0)
    weight = key.astype(np.float64) / 2.0**64 - 0.5
    x, y = (math.fsum(column) for column in (centred * weight[:, None]).T)
    length = math.hypot(x, y)
    # No moment: the cells are all alike, or too few; then they stay as they lie.
    cos, sin = (x / length, y / length) if length > 1e-6 * len(pos) else (1.0, 0.0)
    turned = centred @ np.array([[cos, -sin], [sin, cos]])
    turned = np.round(turned * GRID) / GRID + 0.0  # + 0.0: no negative zeros
    order = np.lexsort((turned[:, 1], turned[:, 0], key))
    return CanonicalPose(order, turned[order], spacing)


def _row_keys(
    rows: sp.csr_matrix | np.ndarray, names: Iterable[object] | None = None
) -> np.ndarray:
    """Return a 64-bit hash of each row's values and columns; the same for any storage."""
    if sp.issparse(rows):
        rows = sp.csr_matrix(rows)
    column = _mix(np.arange(rows.shape[1], dtype=np.uint64))
    if names is not None:
        digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
        column = np.array([int.from_bytes(one, "little") for one in digests], dtype=np.uint64)
    keys = np.zeros(rows.shape[0], dtype=np.uint64)
    step = 8192  # rows at a time, to keep memory small and in the cache
    for start in range(0, rows.shape[0], step):
        part = tidy(sp.csr_matrix(rows[start : start + step]))
        term = _mix(part.data.astype(np.float64).view(np.uint64) ^ column[part.indices])
        total = np.concatenate([[np.uint64(0)], np.cumsum(term, dtype=np.uint64)])
        keys[start : start + step] = total[part.indptr[1:]] - total[part.indptr[:-1]]
    return _mix(keys)


def _mix(value: np.ndarray) -> np.ndarray:
    """Apply the finaliser of SplitMix64: every bit of the input changes every bit of the output."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
