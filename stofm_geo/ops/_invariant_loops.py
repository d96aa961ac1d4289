"""Loops over nodes for the invariants of vectors, compiled by numba.

Arrays are of vectors ``[N, M, 2, W]``, pairs ``[M, N, 2, 2 W]``, invariants ``[N, M, K, W]`` with
``K`` 2, or 3 with cross products, and scales ``[N, M]``.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled


@compiled
def _factor(vectors, small):  # type: ignore[no-untyped-def]
    """Compute the squared scale of the vectors ``[2, W]`` of a node and order."""
    width = vectors.shape[1]
    total = vectors.dtype.type(0)
    for w in range(width):
        total += vectors[0, w] * vectors[0, w] + vectors[1, w] * vectors[1, w]
    return vectors.dtype.type(1) / (total / vectors.dtype.type(width) + small)


@compiled
def invariants(  # type: ignore[no-untyped-def]
    first, last, vectors, pairs, out, scale, small, tiny
):
    """Compute lengths, products and scales."""
    _, orders, kinds, width = out.shape
    small, tiny = vectors.dtype.type(small), vectors.dtype.type(tiny)
    for i in range(first, last):
        for m in range(orders):
            factor = _factor(vectors[i, m], small)
            scale[i, m] = np.sqrt(factor)
            for w in range(width):
                x, y = vectors[i, m, 0, w], vectors[i, m, 1, w]
                out[i, m, 0, w] = np.sqrt(max(x * x + y * y, tiny))
            for w in range(width):
                x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                out[i, m, 1, w] = factor * (x1 * x2 + y1 * y2)
            if kinds == 3:
                for w in range(width):
                    x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                    x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                    out[i, m, 2, w] = factor * (x1 * y2 - y1 * x2)


@compiled
def gradients(  # type: ignore[no-untyped-def]
    first, last, d_out, d_scale, vectors, pairs, d_vectors, d_pairs, small, tiny
):
    """Compute the gradients of vectors and pairs from those of :func:`invariants`."""
    _, orders, kinds, width = d_out.shape
    small, tiny = vectors.dtype.type(small), vectors.dtype.type(tiny)
    half = vectors.dtype.type(0.5)
    for i in range(first, last):
        for m in range(orders):
            factor = _factor(vectors[i, m], small)
            d_factor = half * d_scale[i, m] / np.sqrt(factor)
            for w in range(width):
                x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                inner = d_out[i, m, 1, w]
                d_factor += inner * (x1 * x2 + y1 * y2)
                inner *= factor
                d_pairs[m, i, 0, w] = inner * x2
                d_pairs[m, i, 1, w] = inner * y2
                d_pairs[m, i, 0, width + w] = inner * x1
                d_pairs[m, i, 1, width + w] = inner * y1
            if kinds == 3:
                for w in range(width):
                    x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                    x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                    cross = d_out[i, m, 2, w]
                    d_factor += cross * (x1 * y2 - y1 * x2)
                    cross *= factor
                    d_pairs[m, i, 0, w] += cross * y2
                    d_pairs[m, i, 1, w] -= cross * x2
                    d_pairs[m, i, 0, width + w] -= cross * y1
                    d_pairs[m, i, 1, width + w] += cross * x1
            # The factor is 1 / (mean square + small).
            d_square = -d_factor * factor * factor / vectors.dtype.type(width)
            for w in range(width):
                x, y = vectors[i, m, 0, w], vectors[i, m, 1, w]
                slope = 2 * d_square + d_out[i, m, 0, w] / np.sqrt(max(x * x + y * y, tiny))
                d_vectors[i, m, 0, w] = slope * x
                d_vectors[i, m, 1, w] = slope * y
