"""Loops of the CPU kernel, compiled by numba.

Each function processes rows ``first`` to ``last`` (destinations or sources) and writes only what
belongs to them. Each gathers rows of *one* array over the edges, so that this array can stay in the
cache: gathering keys and values together took twice as long on graphs without locality.

The softmax of a row runs over its numbers of all edges and heads as they lie in memory, eight at a
time, whatever the number of heads ``H``. Numbers by head (a maximum, a sum) are kept for each place
of a ``period``, the least common multiple of 8 and ``H``: place ``p`` belongs to head ``p % H``.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, exp, log
from stofm_geo.ops.simd import (
    LANES,
    add,
    exponential,
    load,
    maximum,
    multiply,
    multiply_add,
    next_place,
    period_of,
    splat,
    store,
    subtract,
)
from stofm_geo.ops.sums import row_dot_products


@compiled
def _join_sums(places, heads):  # type: ignore[no-untyped-def]
    """Sum the places of each head, and write the sum to the first of them."""
    for first in range(heads, places.size, heads):
        for h in range(heads):
            places[h] += places[first + h]


@compiled
def _join_maxima(places, heads):  # type: ignore[no-untyped-def]
    """Compute the largest of the places of each head, and write it to the first of them."""
    for first in range(heads, places.size, heads):
        for h in range(heads):
            places[h] = max(places[h], places[first + h])


@compiled
def _repeat(places, heads):  # type: ignore[no-untyped-def]
    """Write what the first places have to all places of each head."""
    for first in range(heads, places.size, heads):
        for h in range(heads):
            places[first + h] = places[h]


@compiled
def weights(first, last, q, k, bias, src, ptr, logits, alpha, lse):  # type: ignore[no-untyped-def]
    """Compute logits, their softmax ``alpha`` over a destination's edges, and their log-sum-exp."""
    heads, one = q.shape[1], q.dtype.type(1)
    scale = one / np.sqrt(q.dtype.type(q.shape[2]))
    scales, period = splat(scale), period_of(heads)
    top, total = np.empty(period, q.dtype), np.empty(period, q.dtype)
    all_bias, all_logits, all_alpha = bias.reshape(-1), logits.reshape(-1), alpha.reshape(-1)
    for i in range(first, last):
        row_dot_products(i, ptr[i], ptr[i + 1], q, k, src, logits)
        start, end = ptr[i] * heads, ptr[i + 1] * heads
        full = end - (end - start) % LANES
        top[:] = -np.inf
        total[:] = 0
        place = 0
        for p in range(start, full, LANES):
            x = multiply_add(load(all_logits, p), scales, load(all_bias, p))
            store(x, all_logits, p)
            store(maximum(x, load(top, place)), top, place)
            place = next_place(place, period)
        for p in range(full, end):
            all_logits[p] = all_logits[p] * scale + all_bias[p]
            top[place + p - full] = max(top[place + p - full], all_logits[p])
        _join_maxima(top, heads)
        for h in range(heads):
            if top[h] == -np.inf:  # no edge, or all hidden
                top[h] = 0
        _repeat(top, heads)
        place = 0
        for p in range(start, full, LANES):
            x = exponential(subtract(load(all_logits, p), load(top, place)))
            store(x, all_alpha, p)
            store(add(x, load(total, place)), total, place)
            place = next_place(place, period)
        for p in range(full, end):
            all_alpha[p] = exp(all_logits[p] - top[place + p - full])
            total[place + p - full] += all_alpha[p]
        _join_sums(total, heads)
        for h in range(heads):
            lse[i, h] = 0
            if total[h] > 0:
                lse[i, h] = top[h] + log(total[h])
                total[h] = one / total[h]
        _repeat(total, heads)
        place = 0
        for p in range(start, full, LANES):
            store(multiply(load(all_alpha, p), load(total, place)), all_alpha, p)
            place = next_place(place, period)
        for p in range(full, end):
            all_alpha[p] *= total[place + p - full]


@compiled
def softmax_backward(  # type: ignore[no-untyped-def]
    first, last, v, logits, lse, src, ptr, d_out, d_logits, d_lse, d_bias, alpha
):
    """Compute the gradients of the logits, which are those of the bias, and the softmax again.

    The softmax is normalised again, too: the log-sum-exp of logits of 1e5 has rounding errors of
    percents.
    """
    heads, one = v.shape[1], v.dtype.type(1)
    period = period_of(heads)
    top, total, known = (
        np.empty(period, v.dtype),
        np.empty(period, v.dtype),
        np.empty(period, v.dtype),
    )
    all_logits, all_alpha = logits.reshape(-1), alpha.reshape(-1)
    all_d_logits, all_d_bias = d_logits.reshape(-1), d_bias.reshape(-1)
    for i in range(first, last):
        row_dot_products(i, ptr[i], ptr[i + 1], d_out, v, src, d_bias)
        start, end = ptr[i] * heads, ptr[i + 1] * heads
        full = end - (end - start) % LANES
        for h in range(heads):
            top[h] = lse[i, h]
        _repeat(top, heads)
        total[:] = 0
        known[:] = 0
        place = 0
        for p in range(start, full, LANES):
            x = exponential(subtract(load(all_logits, p), load(top, place)))
            store(x, all_alpha, p)
            store(add(x, load(total, place)), total, place)
            store(multiply_add(x, load(all_d_bias, p), load(known, place)), known, place)
            place = next_place(place, period)
        for p in range(full, end):
            all_alpha[p] = exp(all_logits[p] - top[place + p - full])
            total[place + p - full] += all_alpha[p]
            known[place + p - full] += all_alpha[p] * all_d_bias[p]
        _join_sums(total, heads)
        _join_sums(known, heads)
        for h in range(heads):
            total[h] = one / total[h] if total[h] > 0 else 0
            known[h] = d_lse[i, h] - known[h] * total[h]
        _repeat(total, heads)
        _repeat(known, heads)
        place = 0
        for p in range(start, full, LANES):
            x = multiply(load(all_alpha, p), load(total, place))
            store(x, all_alpha, p)
            slope = add(load(all_d_bias, p), load(known, place))
            store(multiply_add(x, slope, load(all_d_logits, p)), all_d_bias, p)
            place = next_place(place, period)
        for p in range(full, end):
            all_alpha[p] *= total[place + p - full]
            slope_here = all_d_bias[p] + known[place + p - full]
            all_d_bias[p] = all_alpha[p] * slope_here + all_d_logits[p]
