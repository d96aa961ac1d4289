"""Loops over edges that several CPU kernels share, compiled by numba.

Edges are processed four at a time, so that the accumulators of a row are read and written once for
four edges. The number of channels is a run-time value on purpose: if it were known at compile time,
inner loops would be unrolled before they are vectorised, and take three times as long.
"""

from __future__ import annotations

from stofm_geo.ops.compiled import compiled


@compiled
def row_dot_products(i, start, end, a, b, index, out):  # type: ignore[no-untyped-def]
    """Compute the dot products of row ``i`` of ``a`` with its neighbours in ``b``, per head."""
    zero = a.dtype.type(0)  # a literal 0 would promote to double precision
    fours = start + (end - start) // 4 * 4
    for e in range(start, fours, 4):
        j0, j1, j2, j3 = index[e], index[e + 1], index[e + 2], index[e + 3]
        for h in range(a.shape[1]):
            p0, p1, p2, p3 = zero, zero, zero, zero
            for c in range(a.shape[2]):
                x = a[i, h, c]
                p0 += x * b[j0, h, c]
                p1 += x * b[j1, h, c]
                p2 += x * b[j2, h, c]
                p3 += x * b[j3, h, c]
            out[e, h] = p0
            out[e + 1, h] = p1
            out[e + 2, h] = p2
            out[e + 3, h] = p3
    for e in range(fours, end):
        for h in range(a.shape[1]):
            p0 = zero
            for c in range(a.shape[2]):
                p0 += a[i, h, c] * b[index[e], h, c]
            out[e, h] = p0


@compiled
def dot_products(first, last, a, b, index, ptr, out):  # type: ignore[no-untyped-def]
    """Compute the dot products of rows ``first`` to ``last`` with their neighbours in ``b``."""
    for i in range(first, last):
        row_dot_products(i, ptr[i], ptr[i + 1], a, b, index, out)


@compiled
def weighted_sums(first, last, weight, x, index, ptr, scale, out):  # type: ignore[no-untyped-def]
    """Sum the rows of ``x`` over each row's edges, weighted by edge and head, and scale the sum."""
    scale = x.dtype.type(scale)
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        fours = start + (end - start) // 4 * 4
        out[i] = 0
        for e in range(start, fours, 4):
            j0, j1, j2, j3 = index[e], index[e + 1], index[e + 2], index[e + 3]
            for h in range(x.shape[1]):
                w0, w1, w2, w3 = weight[e, h], weight[e + 1, h], weight[e + 2, h], weight[e + 3, h]
                for c in range(x.shape[2]):
                    out[i, h, c] += (w0 * x[j0, h, c] + w1 * x[j1, h, c]) + (
                        w2 * x[j2, h, c] + w3 * x[j3, h, c]
                    )
        for e in range(fours, end):
            j0 = index[e]  # loaded here, since out may alias index for the compiler
            for h in range(x.shape[1]):
                w0 = weight[e, h]
                for c in range(x.shape[2]):
                    out[i, h, c] += w0 * x[j0, h, c]
        for h in range(x.shape[1]):
            for c in range(x.shape[2]):
                out[i, h, c] *= scale
