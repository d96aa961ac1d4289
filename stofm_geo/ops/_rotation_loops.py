"""Loops over edges for sums of rotated vectors, compiled by numba.

The channels of a vector component, ``[V, H]`` with heads innermost, are taken eight at a time, as
they lie in memory. Their weights repeat with a ``period``, the least common multiple of 8 and ``H``
(:func:`stofm_geo.ops.simd.period_of`).
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled
from stofm_geo.ops.simd import (
    LANES,
    load,
    multiply_add,
    multiply_subtract,
    next_place,
    period_of,
    splat,
    store,
)

_CHUNK = 32  # edges whose weights are written out at once


@compiled
def rotated_sums(first, last, weight, radial, unit, x, index, ptr, sign, out):  # type: ignore[no-untyped-def]
    """Sum weighted vectors ``x`` of neighbours, rotated by ``sign`` times the angles of edges.

    ``x`` has one component (the second is 0) or two, and so has ``out``.
    """
    sign = x.dtype.type(sign)
    _, orders, parts, channels, heads = x.shape
    size, period = channels * heads, period_of(heads)
    full = size - size % LANES
    both = out.shape[2] == 2
    cos, sin = (
        np.empty((_CHUNK, orders, period), x.dtype),
        np.empty((_CHUNK, orders, period), x.dtype),
    )
    all_x, all_out, all_cos, all_sin = (
        x.reshape(-1),
        out.reshape(-1),
        cos.reshape(-1),
        sin.reshape(-1),
    )
    place_of = np.empty(_CHUNK, np.intp)
    for i in range(first, last):
        out[i] = 0
        for start in range(ptr[i], ptr[i + 1], _CHUNK):
            edges = min(_CHUNK, ptr[i + 1] - start)
            for n in range(edges):
                e = start + n
                place_of[n] = index[e] * orders * parts * size
                for m in range(orders):
                    unit_x, unit_y = unit[e, m, 0], sign * unit[e, m, 1]
                    for p in range(0, period, heads):
                        for h in range(heads):
                            w = weight[e, h] * radial[e, m, h]
                            cos[n, m, p + h] = w * unit_x
                            sin[n, m, p + h] = w * unit_y
            for m in range(orders):
                to = (i * orders + m) * out.shape[2] * size
                place = 0
                for k in range(0, full, LANES):
                    x_sum = load(all_out, to + k)
                    y_sum = load(all_out, to + size + k) if both else x_sum
                    for n in range(edges):
                        of = (n * orders + m) * period + place
                        at = place_of[n] + m * parts * size + k
                        c, s, a = load(all_cos, of), load(all_sin, of), load(all_x, at)
                        x_sum = multiply_add(c, a, x_sum)
                        if both:
                            y_sum = multiply_add(s, a, y_sum)
                        if parts == 2:
                            b = load(all_x, at + size)
                            x_sum = multiply_subtract(s, b, x_sum)
                            if both:
                                y_sum = multiply_add(c, b, y_sum)
                    store(x_sum, all_out, to + k)
                    if both:
                        store(y_sum, all_out, to + size + k)
                    place = next_place(place, period)
                for k in range(full, size):
                    p = k % period
                    for n in range(edges):
                        at = place_of[n] + m * parts * size + k
                        b = all_x[at + size] if parts == 2 else x.dtype.type(0)
                        all_out[to + k] += cos[n, m, p] * all_x[at] - sin[n, m, p] * b
                        if both:
                            all_out[to + size + k] += sin[n, m, p] * all_x[at] + cos[n, m, p] * b


@compiled
def rotated_products(  # type: ignore[no-untyped-def]
    first, last, weight, radial, unit, x, slope, index, ptr, sign, d_weight, d_radial, d_unit
):
    """Compute the gradients of weights and directions from those of :func:`rotated_sums`."""
    zero = x.dtype.type(0)  # a literal 0 would promote to double precision
    sign = x.dtype.type(sign)
    _, orders, parts, channels, heads = x.shape
    size, period = channels * heads, period_of(heads)
    full = size - size % LANES
    all_x, all_slope = x.reshape(-1), slope.reshape(-1)
    along, across = np.empty(period, x.dtype), np.empty(period, x.dtype)
    for i in range(first, last):
        for e in range(ptr[i], ptr[i + 1]):
            for h in range(heads):
                d_weight[e, h] = zero
            for m in range(orders):
                at = (index[e] * orders + m) * parts * size
                to = (i * orders + m) * 2 * size
                for place in range(0, period, LANES):
                    dot = splat(zero)
                    cross = splat(zero)
                    for k in range(place, full, period):
                        a = load(all_x, at + k)
                        gx, gy = load(all_slope, to + k), load(all_slope, to + size + k)
                        dot = multiply_add(a, gx, dot)
                        cross = multiply_add(a, gy, cross)
                        if parts == 2:
                            b = load(all_x, at + size + k)
                            dot = multiply_add(b, gy, dot)
                            cross = multiply_subtract(b, gx, cross)
                    store(dot, along, place)
                    store(cross, across, place)
                for k in range(full, size):
                    a = all_x[at + k]
                    b = all_x[at + size + k] if parts == 2 else zero
                    gx, gy = all_slope[to + k], all_slope[to + size + k]
                    along[k % period] += a * gx + b * gy
                    across[k % period] += a * gy - b * gx
                for p in range(heads, period, heads):
                    for h in range(heads):
                        along[h] += along[p + h]
                        across[h] += across[p + h]
                d_cos, d_sin = zero, zero
                for h in range(heads):
                    turned = sign * across[h]
                    d_product = unit[e, m, 0] * along[h] + unit[e, m, 1] * turned
                    d_weight[e, h] += radial[e, m, h] * d_product
                    d_radial[e, m, h] = weight[e, h] * d_product
                    d_cos += weight[e, h] * radial[e, m, h] * along[h]
                    d_sin += weight[e, h] * radial[e, m, h] * turned
                d_unit[e, m, 0] = d_cos
                d_unit[e, m, 1] = d_sin
