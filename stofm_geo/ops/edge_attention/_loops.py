"""The loops of the CPU kernel, compiled by numba.

Each function walks rows ``first`` to ``last`` (of destinations, or of sources) and writes nothing
but what belongs to them. Each reads rows of *one* array over the edges, so that this array can
stay in the cache: keys and values walked at once do not fit together, and took twice the time
where edges lead anywhere. Edges are taken four at a time, so that what a row keeps is read and
written once for four. The number of channels is left to run time on purpose: known to the
compiler, inner loops are unrolled before they could be vectorised, and take three times as long.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, exp, log


@compiled
def _products(i, start, end, a, b, index, out):  # type: ignore[no-untyped-def]
    """Of row ``i`` of ``a`` with the rows of ``b`` that its edges lead to, head by head."""
    zero = a.dtype.type(0)  # 0 would make doubles of all it meets
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
def weights(first, last, q, k, bias, src, ptr, logits, alpha, lse):  # type: ignore[no-untyped-def]
    """Logits, their softmax ``alpha`` over the edges of a destination, and their log-sum-exp."""
    heads, one = q.shape[1], q.dtype.type(1)
    scale = one / np.sqrt(q.dtype.type(q.shape[2]))
    top = np.empty(heads, q.dtype)
    total = np.empty(heads, q.dtype)
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        _products(i, start, end, q, k, src, logits)
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
def slopes(  # type: ignore[no-untyped-def]
    first, last, v, logits, out, lse, src, ptr, d_out, d_logits, d_lse, d_bias, alpha
):
    """Gradients of the logits, which are those of the bias; the softmax once more."""
    known = np.empty(v.shape[1], v.dtype)
    for i in range(first, last):
        _products(i, ptr[i], ptr[i + 1], d_out, v, src, d_bias)
        for h in range(v.shape[1]):
            p = v.dtype.type(0)
            for c in range(v.shape[2]):
                p += d_out[i, h, c] * out[i, h, c]
            known[h] = d_lse[i, h] - p
        for e in range(ptr[i], ptr[i + 1]):
            for h in range(v.shape[1]):
                alpha[e, h] = exp(logits[e, h] - lse[i, h])
                d_bias[e, h] = alpha[e, h] * (d_bias[e, h] + known[h]) + d_logits[e, h]


@compiled
def sums(first, last, weight, x, index, ptr, scale, out):  # type: ignore[no-untyped-def]
    """Of the rows of ``x`` that a row's edges lead to; weighted by edge and head, then scaled."""
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
            j0 = index[e]  # here, since for all the compiler knows out may lie over index
            for h in range(x.shape[1]):
                w0 = weight[e, h]
                for c in range(x.shape[2]):
                    out[i, h, c] += w0 * x[j0, h, c]
        for h in range(x.shape[1]):
            for c in range(x.shape[2]):
                out[i, h, c] *= scale
