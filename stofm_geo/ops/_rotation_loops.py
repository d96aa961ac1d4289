"""Loops over edges for sums of rotated vectors, compiled by numba.

Edges are processed two at a time, so that accumulators are read and written once for both.
"""

from __future__ import annotations

from stofm_geo.ops.compiled import compiled


@compiled
def rotated_sums(first, last, weight, unit, x, index, ptr, sign, out):  # type: ignore[no-untyped-def]
    """Sum weighted vectors ``x`` of neighbours, rotated by ``sign`` times the angles of edges."""
    sign = x.dtype.type(sign)
    channels = x.shape[4]
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        pairs = start + (end - start) // 2 * 2
        out[i] = 0
        for e in range(start, pairs, 2):
            j, k = index[e], index[e + 1]
            for h in range(x.shape[1]):
                for m in range(x.shape[2]):
                    cos, cos2 = (
                        weight[e, h, m] * unit[e, m, 0],
                        weight[e + 1, h, m] * unit[e + 1, m, 0],
                    )
                    sin = sign * weight[e, h, m] * unit[e, m, 1]
                    sin2 = sign * weight[e + 1, h, m] * unit[e + 1, m, 1]
                    for v in range(channels):
                        out[i, h, m, 0, v] += (cos * x[j, h, m, 0, v] - sin * x[j, h, m, 1, v]) + (
                            cos2 * x[k, h, m, 0, v] - sin2 * x[k, h, m, 1, v]
                        )
                    for v in range(channels):
                        out[i, h, m, 1, v] += (sin * x[j, h, m, 0, v] + cos * x[j, h, m, 1, v]) + (
                            sin2 * x[k, h, m, 0, v] + cos2 * x[k, h, m, 1, v]
                        )
        for e in range(pairs, end):
            j = index[e]
            for h in range(x.shape[1]):
                for m in range(x.shape[2]):
                    cos = weight[e, h, m] * unit[e, m, 0]
                    sin = sign * weight[e, h, m] * unit[e, m, 1]
                    for v in range(channels):
                        out[i, h, m, 0, v] += cos * x[j, h, m, 0, v] - sin * x[j, h, m, 1, v]
                        out[i, h, m, 1, v] += sin * x[j, h, m, 0, v] + cos * x[j, h, m, 1, v]


@compiled
def rotated_products(first, last, weight, unit, x, slope, index, ptr, d_weight, d_unit):  # type: ignore[no-untyped-def]
    """Compute gradients of weights and directions from those of sums rotated by minus the angle."""
    zero = x.dtype.type(0)  # a literal 0 would promote to double precision
    for i in range(first, last):
        for e in range(ptr[i], ptr[i + 1]):
            j = index[e]
            d_unit[e] = 0
            for h in range(x.shape[1]):
                for m in range(x.shape[2]):
                    along, across = zero, zero
                    for v in range(x.shape[4]):
                        a, b = x[j, h, m, 0, v], x[j, h, m, 1, v]
                        along += a * slope[i, h, m, 0, v] + b * slope[i, h, m, 1, v]
                        across += b * slope[i, h, m, 0, v] - a * slope[i, h, m, 1, v]
                    d_weight[e, h, m] = unit[e, m, 0] * along + unit[e, m, 1] * across
                    d_unit[e, m, 0] += weight[e, h, m] * along
                    d_unit[e, m, 1] += weight[e, h, m] * across
