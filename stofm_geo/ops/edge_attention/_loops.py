"""Loops of the CPU kernel, compiled by numba.

Each function processes rows ``first`` to ``last`` (destinations or sources) and writes only what
belongs to them. Each gathers rows of *one* array over the edges, so that this array can stay in the
cache: gathering keys and values together took twice as long on graphs without locality.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, exp, log
from stofm_geo.ops.sums import row_dot_products


@compiled
def weights(first, last, q, k, bias, src, ptr, logits, alpha, lse):  # type: ignore[no-untyped-def]
    """Compute logits, their softmax ``alpha`` over a destination's edges, and their log-sum-exp."""
    heads, one = q.shape[1], q.dtype.type(1)
    scale = one / np.sqrt(q.dtype.type(q.shape[2]))
    top = np.empty(heads, q.dtype)
    total = np.empty(heads, q.dtype)
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        row_dot_products(i, start, end, q, k, src, logits)
        top[:] = -np.inf
        total[:] = 0
        for e in range(start, end):
            for h in range(heads):
                logits[e, h] = logits[e, h] * scale + bias[e, h]
                top[h] = max(top[h], logits[e, h])
        for h in range(heads):
            if top[h] == -np.inf:  # no edge, or all hidden
                top[h] = 0
        for e in range(start, end):
            for h in range(heads):
                alpha[e, h] = exp(logits[e, h] - top[h])
                total[h] += alpha[e, h]
        for h in range(heads):
            lse[i, h] = 0
            if total[h] > 0:
                lse[i, h] = top[h] + log(total[h])
                total[h] = one / total[h]
        for e in range(start, end):
            for h in range(heads):
                alpha[e, h] *= total[h]


@compiled
def softmax_backward(  # type: ignore[no-untyped-def]
    first, last, v, logits, lse, src, ptr, d_out, d_logits, d_lse, d_bias, alpha
):
    """Compute the gradients of the logits, which are those of the bias, and the softmax again.

    The softmax is normalised again, too: the log-sum-exp of logits of 1e5 has rounding errors of
    percents.
    """
    known = np.empty(v.shape[1], v.dtype)
    total = np.empty(v.shape[1], v.dtype)
    for i in range(first, last):
        row_dot_products(i, ptr[i], ptr[i + 1], d_out, v, src, d_bias)
        for h in range(v.shape[1]):
            known[h] = 0
            total[h] = 0
        for e in range(ptr[i], ptr[i + 1]):
            for h in range(v.shape[1]):
                alpha[e, h] = exp(logits[e, h] - lse[i, h])
                total[h] += alpha[e, h]
                known[h] += alpha[e, h] * d_bias[e, h]
        for h in range(v.shape[1]):
            total[h] = 1 / total[h] if total[h] > 0 else 0
            known[h] = d_lse[i, h] - known[h] * total[h]
        for e in range(ptr[i], ptr[i + 1]):
            for h in range(v.shape[1]):
                alpha[e, h] *= total[h]
                d_bias[e, h] = alpha[e, h] * (d_bias[e, h] + known[h]) + d_logits[e, h]
