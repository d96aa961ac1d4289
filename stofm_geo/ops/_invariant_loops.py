"""Loops over nodes for the invariants of vectors, compiled by numba.

Arrays are of vectors ``[N, M, 2, W]``, scaled vectors ``[M, N, 2, W]``, lengths ``[N, M, W]``,
pairs ``[M, N, 2, 2 W]``, and invariants ``[N, M, K, W]`` with ``K`` 2, or 3 with cross products.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled


@compiled
def _scale_of(vectors, small):  # type: ignore[no-untyped-def]
    """Compute the factor that scales vectors ``[2, W]`` to a root mean square of about 1."""
    total, one = vectors.dtype.type(0), vectors.dtype.type(1)
    for w in range(vectors.shape[1]):
        total += vectors[0, w] * vectors[0, w] + vectors[1, w] * vectors[1, w]
    return one / np.sqrt(total / vectors.dtype.type(vectors.shape[1]) + small)


@compiled
def scale(first, last, vectors, scaled, lengths, small, tiny):  # type: ignore[no-untyped-def]
    """Scale vectors, and compute their lengths before."""
    _, orders, _, width = vectors.shape
    small, tiny = vectors.dtype.type(small), vectors.dtype.type(tiny)
    for i in range(first, last):
        for m in range(orders):
            factor = _scale_of(vectors[i, m], small)
            for w in range(width):
                x, y = vectors[i, m, 0, w], vectors[i, m, 1, w]
                scaled[m, i, 0, w] = factor * x
                scaled[m, i, 1, w] = factor * y
                lengths[i, m, w] = np.sqrt(max(x * x + y * y, tiny))


@compiled
def scale_gradients(  # type: ignore[no-untyped-def]
    first, last, d_scaled, d_lengths, vectors, d_vectors, small, tiny
):
    """Compute the gradient of vectors from those of :func:`scale`."""
    _, orders, _, width = vectors.shape
    small, tiny = vectors.dtype.type(small), vectors.dtype.type(tiny)
    zero, one = vectors.dtype.type(0), vectors.dtype.type(1)
    for i in range(first, last):
        for m in range(orders):
            factor = _scale_of(vectors[i, m], small)
            along = zero
            for w in range(width):
                along += d_scaled[m, i, 0, w] * (factor * vectors[i, m, 0, w])
                along += d_scaled[m, i, 1, w] * (factor * vectors[i, m, 1, w])
            along = along / vectors.dtype.type(width)
            for w in range(width):
                x, y = vectors[i, m, 0, w], vectors[i, m, 1, w]
                square = x * x + y * y
                slope = d_lengths[i, m, w] * (one / np.sqrt(max(square, tiny)))
                slope = zero if square < tiny else slope
                d_vectors[i, m, 0, w] = factor * (d_scaled[m, i, 0, w] - along * (factor * x))
                d_vectors[i, m, 1, w] = factor * (d_scaled[m, i, 1, w] - along * (factor * y))
                d_vectors[i, m, 0, w] += slope * x
                d_vectors[i, m, 1, w] += slope * y


@compiled
def products(first, last, lengths, pairs, out):  # type: ignore[no-untyped-def]
    """Join lengths with the products of pairs."""
    _, orders, kinds, width = out.shape
    for i in range(first, last):
        for m in range(orders):
            for w in range(width):
                out[i, m, 0, w] = lengths[i, m, w]
            for w in range(width):
                x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                out[i, m, 1, w] = x1 * x2 + y1 * y2
            if kinds == 3:
                for w in range(width):
                    x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                    x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                    out[i, m, 2, w] = x1 * y2 - y1 * x2


@compiled
def product_gradients(first, last, d_out, pairs, d_lengths, d_pairs):  # type: ignore[no-untyped-def]
    """Compute the gradients of lengths and pairs from those of :func:`products`."""
    _, orders, kinds, width = d_out.shape
    for i in range(first, last):
        for m in range(orders):
            for w in range(width):
                d_lengths[i, m, w] = d_out[i, m, 0, w]
            for w in range(width):
                x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                inner = d_out[i, m, 1, w]
                d_pairs[m, i, 0, w] = inner * x2
                d_pairs[m, i, 1, w] = inner * y2
                d_pairs[m, i, 0, width + w] = inner * x1
                d_pairs[m, i, 1, width + w] = inner * y1
            if kinds == 3:
                for w in range(width):
                    x1, y1 = pairs[m, i, 0, w], pairs[m, i, 1, w]
                    x2, y2 = pairs[m, i, 0, width + w], pairs[m, i, 1, width + w]
                    cross = d_out[i, m, 2, w]
                    d_pairs[m, i, 0, w] += cross * y2
                    d_pairs[m, i, 1, w] -= cross * x2
                    d_pairs[m, i, 0, width + w] -= cross * y1
                    d_pairs[m, i, 1, width + w] += cross * x1
