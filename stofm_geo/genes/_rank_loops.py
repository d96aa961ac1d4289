"""The loops of rank-value encoding, compiled by numba; each walks cells ``first`` to ``last``."""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled_exactly

_FEW = 96  # values that are put in order one by one; more are brought near it first
_DIGIT = 11  # bits of each of two rounds of that: 22 of a float32, 13 of them of its mantissa
_DIGITS = 1 << _DIGIT
_BELOW = 10  # bits of it that they do not look at


@compiled_exactly
def lengths(first, last, indptr, indices, token, most, length):  # type: ignore[no-untyped-def]
    """Tokens of each cell, one in front of its genes counted."""
    for i in range(first, last):
        found = 1
        for p in range(indptr[i], indptr[i + 1]):
            if token[indices[p]] >= 0:
                found += 1
        length[i] = min(found, most)


@compiled_exactly
def ranks(  # type: ignore[no-untyped-def]
    first, last, indptr, indices, data, token, median, in_front, ptr, tokens
):
    """Tokens of the genes, the largest value first, ties in the order of the file."""
    widest = 0
    for i in range(first, last):
        widest = max(widest, indptr[i + 1] - indptr[i])
    made, value = np.empty(widest, np.float64), np.empty(widest, np.float64)
    own, place = np.empty(widest, np.int32), np.empty(widest, np.int32)
    low, high = np.empty(widest, np.int32), np.empty(widest, np.int32)
    near = np.empty(widest, np.int32)
    key = np.empty(1, np.float32)
    bits = key.view(np.int32)
    start_low, start_high = np.empty(_DIGITS + 1, np.int32), np.empty(_DIGITS + 1, np.int32)
    for i in range(first, last):
        total, m = 0.0, 0
        for p in range(indptr[i], indptr[i + 1]):
            total += np.float64(data[p])
        for p in range(indptr[i], indptr[i + 1]):
            g = indices[p]
            if token[g] >= 0:
                made[m] = np.float64(data[p]) / total * 10000.0 / median[g]
                own[m] = token[g]
                m += 1
        if m > _FEW:
            # Two rounds over the digits of the nearest float32, whose bits, as a whole number, are
            # in the order of the values; what they leave to do is little.
            start_low[:] = 0
            start_high[:] = 0
            for j in range(m):
                key[0] = made[j]
                digits = bits[0] >> _BELOW
                low[j] = _DIGITS - 1 - (digits & (_DIGITS - 1))
                high[j] = _DIGITS - 1 - (digits >> _DIGIT)
                start_low[low[j] + 1] += 1
                start_high[high[j] + 1] += 1
            for d in range(_DIGITS):
                start_low[d + 1] += start_low[d]
                start_high[d + 1] += start_high[d]
            for j in range(m):
                near[start_low[low[j]]] = j
                start_low[low[j]] += 1
            for n in range(m):
                j = near[n]
                value[start_high[high[j]]] = made[j]
                place[start_high[high[j]]] = own[j]
                start_high[high[j]] += 1
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
        for j in range(ptr[i + 1] - ptr[i] - 1):
            tokens[ptr[i] + 1 + j] = place[j]
