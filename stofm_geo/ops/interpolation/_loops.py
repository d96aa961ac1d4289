"""Loops of the interpolation, compiled by numba; each processes edges ``first`` to ``last``."""

from __future__ import annotations

from stofm_geo.ops.compiled import compiled


@compiled
def _left(knots, starts, x):  # type: ignore[no-untyped-def]
    """Find the knot before ``x`` by bisection, among those of its bucket."""
    parts = starts.shape[0]
    share = (x - knots[0]) / (knots[-1] - knots[0])
    part = min(max(int(share * parts), 0), parts - 1)
    low, high = starts[part, 0], starts[part, 1]
    while low < high:
        middle = (low + high + 1) // 2
        if knots[middle] <= x:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def _weights(knots, starts, x):  # type: ignore[no-untyped-def]
    """Find the knot before ``x``, and the weights of the values' rise and both derivatives."""
    one = knots.dtype.type(1)
    x = min(max(x, knots[0]), knots[-1])
    i = _left(knots, starts, x)
    step = knots[i + 1] - knots[i]
    t = (x - knots[i]) / step
    up = t * t * (3 * one - 2 * one * t)
    return i, up, t * (one - t) * (one - t) * step, -t * t * (one - t) * step


@compiled
def forward(first, last, at, knots, starts, table, out):  # type: ignore[no-untyped-def]
    """Interpolate at edges ``first`` to ``last``."""
    for e in range(first, last):
        i, up, a, b = _weights(knots, starts, at[e])
        for c in range(out.shape[1]):
            y0, y1 = table[i, 0, c], table[i + 1, 0, c]
            out[e, c] = y0 + (y1 - y0) * up + a * table[i, 1, c] + b * table[i + 1, 1, c]


@compiled
def backward(first, last, d_out, at, knots, starts, d_table):  # type: ignore[no-untyped-def]
    """Add the gradients of the table from edges ``first`` to ``last``."""
    one = knots.dtype.type(1)
    for e in range(first, last):
        i, up, a, b = _weights(knots, starts, at[e])
        for c in range(d_out.shape[1]):
            d = d_out[e, c]
            d_table[i, 0, c] += (one - up) * d
            d_table[i + 1, 0, c] += up * d
            d_table[i, 1, c] += a * d
            d_table[i + 1, 1, c] += b * d
