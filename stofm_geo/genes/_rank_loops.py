"""Loops of rank-value encoding, compiled by numba; each processes cells ``first`` to ``last``."""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, compiled_exactly

_FEW = 48  # values that are put in order one by one; more are brought near it first
_DIGIT = 8  # bits of each of two rounds of that; 16 of what a cell's float32 differ in
_DIGITS = 1 << _DIGIT


@compiled_exactly
def lengths(first, last, indptr, indices, token, most, length):  # type: ignore[no-untyped-def]
    """Count the tokens of each cell, including the one before its genes."""
    for i in range(first, last):
        found = 1
        for p in range(indptr[i], indptr[i + 1]):
            if token[indices[p]] >= 0:
                found += 1
        length[i] = min(found, most)


@compiled
def _sum(data, first, last):  # type: ignore[no-untyped-def]
    total = 0.0
    for p in range(first, last):
        total += np.float64(data[p])
    return total


@compiled_exactly
def ranks(  # type: ignore[no-untyped-def]
    first, last, indptr, indices, data, token, median, in_front, ptr, tokens
):
    """Write the tokens of the genes, the largest value first, ties in the order of the file."""
    widest = 0
    for i in range(first, last):
        widest = max(widest, indptr[i + 1] - indptr[i])
    # One more than needed: where the next gene goes is written before it is known to have a token.
    made, own = np.empty(widest + 1, np.float64), np.empty(widest + 1, np.int32)
    single = np.empty(widest + 1, np.float32)
    bits = single.view(np.int32)
    value, place = np.empty(widest, np.float64), np.empty(widest, np.int32)
    there, near = np.empty(widest, np.int32), np.empty(widest, np.int32)
    start_low, start_high = np.empty(_DIGITS + 1, np.int32), np.empty(_DIGITS + 1, np.int32)
    for i in range(first, last):
        total, m = _sum(data, indptr[i], indptr[i + 1]), 0
        for p in range(indptr[i], indptr[i + 1]):
            g = indices[p]
            made[m] = np.float64(data[p]) / total * 10000.0 / median[g]
            single[m] = made[m]
            own[m] = token[g]
            m += token[g] >= 0
        wanted = ptr[i + 1] - ptr[i] - 1
        if m > _FEW:
            # The bits of the nearest float32, as a whole number, are in the order of the values;
            # two rounds over the digits of how far each is below the largest leave little to do.
            most, least = bits[0], bits[0]
            for j in range(m):
                most, least = max(most, bits[j]), min(least, bits[j])
            shift = 0
            while (most - least) >> shift >= _DIGITS * _DIGITS:
                shift += 1
            start_low[:] = 0
            start_high[:] = 0
            for j in range(m):
                bits[j] = (most - bits[j]) >> shift
                start_high[(bits[j] >> _DIGIT) + 1] += 1
            last_high = _DIGITS - 1  # what comes after it is cut
            for d in range(_DIGITS):
                start_high[d + 1] += start_high[d]
                if start_high[d + 1] >= wanted:
                    last_high = min(last_high, d)
            m_all, m = m, 0
            for j in range(m_all):
                there[m] = j
                kept = bits[j] >> _DIGIT <= last_high
                start_low[(bits[j] & (_DIGITS - 1)) + 1] += kept
                m += kept
            for d in range(_DIGITS):
                start_low[d + 1] += start_low[d]
            for n in range(m):
                j = there[n]
                low = bits[j] & (_DIGITS - 1)
                near[start_low[low]] = j
                start_low[low] += 1
            for n in range(m):
                j = near[n]
                high = bits[j] >> _DIGIT
                value[start_high[high]] = made[j]
                place[start_high[high]] = own[j]
                start_high[high] += 1
        else:
            value[:m] = made[:m]
            place[:m] = own[:m]
        for j in range(1, m):  # what is alike by its digits, or all of a few
            v, t, k = value[j], place[j], j
            while k > 0 and value[k - 1] < v:
                value[k], place[k] = value[k - 1], place[k - 1]
                k -= 1
            value[k], place[k] = v, t
        tokens[ptr[i]] = in_front
        for j in range(wanted):
            tokens[ptr[i] + 1 + j] = place[j]
