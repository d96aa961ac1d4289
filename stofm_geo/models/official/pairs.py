"""Pairs of nodes whose distance the published model is given, found by compiled loops.

Cells are sorted into square bins, and a cell looks for its nearest nodes in the bins around its
own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from stofm_geo.ops.compiled import compiled_exactly

NEIGHBORS = 50  # nearest nodes whose distance is given, the node itself counted
_PER_BIN = 2.0  # cells, on average
_RINGS = 3  # bins on each side that are searched first; 49 bins hold about 98 cells


def known_distance_pairs(pos: np.ndarray, special: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of nodes with a known distance, and the distances.

    Among nodes that are equally far, those with the lowest numbers are nearest.

    Args:
        pos: Positions ``[n, 2]`` float64: CLS, the virtual cells, then one cell or more.
        special: Number of CLS and the virtual cells.

    Returns:
        ``edge_index`` ``[2, E]``, both directions and loops, sorted by destination, then source;
        and distances ``[E]`` float32, in the units of ``pos``.
    """
    cells = pos[special:]
    low, extent = cells.min(axis=0), np.ptp(cells, axis=0)
    # The second bound keeps the number of bins small if cells lie along a line.
    side = max(
        math.sqrt(extent.prod() * _PER_BIN / len(cells)), extent.max() * _PER_BIN / len(cells)
    )
    side = side or 1.0
    column, row = ((cells - low) / side).astype(np.int64).T
    columns, rows = int(column.max()) + 1, int(row.max()) + 1
    place = row * columns + column
    order = np.argsort(place, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=rows * columns))])
    x, y = np.ascontiguousarray(pos.T)
    k = min(NEIGHBORS, len(pos) - 1)
    known = np.zeros((len(pos), len(pos)), dtype=np.uint8)
    _mark_special(known, x, y, special)
    _mark_nearest(known, x, y, special, k, order + special, start, columns, rows, low, side)
    edge_index, distance = _list_pairs(known, x, y, np.count_nonzero(known.view(bool)))
    return torch.from_numpy(edge_index), torch.from_numpy(distance)


@compiled_exactly
def _mark_special(known, x, y, special):  # type: ignore[no-untyped-def]
    """Mark all pairs with CLS, of nodes with themselves, and with virtual cells elsewhere."""
    n = len(x)
    known[0] = 1
    for node in range(n):
        known[node, 0] = 1
        known[node, node] = 1
    for macro in range(1, special):
        for node in range(1, n):
            # The published code takes a distance of 0 for none at all.
            if x[node] != x[macro] or y[node] != y[macro]:
                known[macro, node] = 1
                known[node, macro] = 1


@compiled_exactly
def _mark_nearest(  # type: ignore[no-untyped-def]
    known, x, y, special, k, order, start, columns, rows, low, side
):
    """Mark the pairs of each cell and its ``k`` nearest nodes that are not at its place."""
    n = len(x)
    node = np.empty(n, np.int64)
    square = np.empty(n, np.float64)  # squared distances to these nodes
    near_node, near_square = np.empty(n, np.int64), np.empty(n, np.float64)
    scratch = np.empty(n, np.float64)
    bin_x, bin_y = x[order], y[order]
    node[:special] = np.arange(special)
    guess = np.inf
    for place in range(len(order)):
        i = order[place]
        own_x, own_y = x[i], y[i]
        column, row = int((own_x - low[0]) / side), int((own_y - low[1]) / side)
        for j in range(special):
            square[j] = (x[j] - own_x) ** 2 + (y[j] - own_y) ** 2
        rings, farthest, near = _RINGS, 0.0, 0
        while True:
            left, right = max(column - rings, 0), min(column + rings, columns - 1)
            bottom, top = max(row - rings, 0), min(row + rings, rows - 1)
            count = special
            for band in range(bottom, top + 1):
                first, last = start[band * columns + left], start[band * columns + right + 1]
                for j in range(first, last):
                    square[count + j - first] = (bin_x[j] - own_x) ** 2 + (bin_y[j] - own_y) ** 2
                node[count : count + last - first] = order[first:last]
                count += last - first
            near = _up_to(guess, square, node, count, near_square, near_node)
            if near < k:
                near = _up_to(np.inf, square, node, count, near_square, near_node)
            beyond = _distance_to_other_bins(own_x - low[0], left, right, columns, side)
            beyond = min(beyond, _distance_to_other_bins(own_y - low[1], bottom, top, rows, side))
            if near >= k:
                scratch[:near] = near_square[:near]
                farthest = _smallest(scratch, near, k - 1)
                if farthest < beyond * beyond or beyond == np.inf:
                    break
                rings = max(rings + 1, int(math.sqrt(farthest) / side) + 1)
            else:
                rings += 1
        guess = 1.2 * farthest
        more = k
        for j in range(near):
            if near_square[j] < farthest:
                more -= 1
                if near_square[j] > 0:
                    known[i, near_node[j]] = 1
                    known[near_node[j], i] = 1
        taken = -1
        for _ in range(more):  # of those that are equally far
            lowest = n
            for j in range(near):
                if near_square[j] == farthest and taken < near_node[j] < lowest:
                    lowest = near_node[j]
            taken = lowest
            if farthest > 0:
                known[i, taken] = 1
                known[taken, i] = 1


@register_jitable
def _up_to(limit, square, node, count, near_square, near_node):  # type: ignore[no-untyped-def]
    """Copy what is not farther than ``limit``; return how many."""
    near = 0
    for j in range(count):
        near_square[near] = square[j]
        near_node[near] = node[j]
        near += square[j] <= limit
    return near


@register_jitable
def _distance_to_other_bins(own, first, last, bins, side):  # type: ignore[no-untyped-def]
    """Return a lower bound of the distance to cells in bins before ``first`` or after ``last``."""
    below = own - first * side if first > 0 else np.inf
    above = (last + 1) * side - own if last < bins - 1 else np.inf
    return min(below, above) - 1e-6 * side  # rounding


@register_jitable
def _smallest(values, count, k):  # type: ignore[no-untyped-def]
    """Return the ``k``-th smallest (from 0) of the first ``count`` values, which are reordered."""
    first, last = 0, count - 1
    while first < last:
        pivot = values[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            last = j
        elif k >= i:
            first = i
        else:
            break
    return values[k]


@compiled_exactly
def _list_pairs(known, x, y, edges):  # type: ignore[no-untyped-def]
    """Return the ``edges`` marked pairs, ``[2, edges]``, and their distances."""
    n = len(x)
    edge_index, distance = np.empty((2, edges), np.int64), np.empty(edges, np.float32)
    sources = np.empty(n + 1, np.int64)
    first = 0
    for dst in range(n):
        count = 0
        for src in range(n):
            sources[count] = src
            count += known[dst, src]
        edge_index[0, first : first + count] = sources[:count]
        edge_index[1, first : first + count] = dst
        for e in range(count):
            src = sources[e]
            distance[first + e] = math.sqrt((x[dst] - x[src]) ** 2 + (y[dst] - y[src]) ** 2)
        distance[first] = 0  # to CLS
        first += count
    distance[:n] = 0
    return edge_index, distance
