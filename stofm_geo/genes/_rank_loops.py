"""Loops of rank-value encoding, compiled by numba; each processes cells ``first`` to ``last``."""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, compiled_exactly

_INSERTION_MAX = 48  # values sorted by insertion alone; more are radix-sorted first
_DIGIT = 8  # bits of each of two radix rounds; together the leading 16 bits that differ
_DIGITS = 1 << _DIGIT


@compiled_exactly
def lengths(first, last, indptr, indices, token, max_length, length):  # type: ignore[no-untyped-def]
    """Count the tokens of each cell, including the one before its genes."""
    for i in range(first, last):
        count = 1
        for p in range(indptr[i], indptr[i + 1]):
            if token[indices[p]] >= 0:
                count += 1
        length[i] = min(count, max_length)


@compiled
def _sum(data, first, last):  # type: ignore[no-untyped-def]
    total = 0.0
    for p in range(first, last):
        total += np.float64(data[p])
    return total


@compiled_exactly
def ranks(  # type: ignore[no-untyped-def]
    first, last, indptr, indices, data, token, median, first_token, ptr, tokens
):
    """Write the tokens of the genes, the largest value first, ties in the order of the file."""
    widest = 0
    for i in range(first, last):
        widest = max(widest, indptr[i + 1] - indptr[i])
    # One more than needed, since a gene is written before it is known whether it has a token.
    score, gene_token = np.empty(widest + 1, np.float64), np.empty(widest + 1, np.int32)
    single = np.empty(widest + 1, np.float32)
    bits = single.view(np.int32)
    value, sorted_token = np.empty(widest, np.float64), np.empty(widest, np.int32)
    kept_index, by_low_digit = np.empty(widest, np.int32), np.empty(widest, np.int32)
    start_low, start_high = np.empty(_DIGITS + 1, np.int32), np.empty(_DIGITS + 1, np.int32)
    for i in range(first, last):
        total, m = _sum(data, indptr[i], indptr[i + 1]), 0
        for p in range(indptr[i], indptr[i + 1]):
            g = indices[p]
            score[m] = np.float64(data[p]) / total * 10000.0 / median[g]
            single[m] = score[m]
            gene_token[m] = token[g]
            m += token[g] >= 0
        n_wanted = ptr[i + 1] - ptr[i] - 1
        if m > _INSERTION_MAX:
            # The bits of positive float32, as integers, are in the order of the values. Two radix
            # rounds over the digits of the difference to the largest leave little to sort.
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
            last_high = _DIGITS - 1  # later digits are beyond max_length
            for d in range(_DIGITS):
                start_high[d + 1] += start_high[d]
                if start_high[d + 1] >= n_wanted:
                    last_high = min(last_high, d)
            m_all, m = m, 0
            for j in range(m_all):
                kept_index[m] = j
                kept = bits[j] >> _DIGIT <= last_high
                start_low[(bits[j] & (_DIGITS - 1)) + 1] += kept
                m += kept
            for d in range(_DIGITS):
                start_low[d + 1] += start_low[d]
            for n in range(m):
                j = kept_index[n]
                low = bits[j] & (_DIGITS - 1)
                by_low_digit[start_low[low]] = j
                start_low[low] += 1
            for n in range(m):
                j = by_low_digit[n]
                high = bits[j] >> _DIGIT
                value[start_high[high]] = score[j]
                sorted_token[start_high[high]] = gene_token[j]
                start_high[high] += 1
        else:
            value[:m] = score[:m]
            sorted_token[:m] = gene_token[:m]
        for j in range(1, m):  # insertion sort of equal digits, or of all if few
            v, t, k = value[j], sorted_token[j], j
            while k > 0 and value[k - 1] < v:
                value[k], sorted_token[k] = value[k - 1], sorted_token[k - 1]
                k -= 1
            value[k], sorted_token[k] = v, t
        tokens[ptr[i]] = first_token
        for j in range(n_wanted):
            tokens[ptr[i] + 1 + j] = sorted_token[j]
