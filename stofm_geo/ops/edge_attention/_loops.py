"""The loops of the CPU kernel, compiled by numba.

Each function walks rows ``first`` to ``last`` (of destinations, or of sources) and writes nothing
but what belongs to them. The number of channels is left to run time on purpose: known to the
compiler, inner loops are unrolled before they could be vectorised, and take three times as long.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, exp, log


@compiled
def forward(first, last, q, k, v, bias, src, ptr, logits, out, lse):  # type: ignore[no-untyped-def]
    heads, channels, values = q.shape[1], q.shape[2], v.shape[2]
    one = q.dtype.type(1)  # 1 alone would make doubles of all it meets
    scale = one / np.sqrt(q.dtype.type(channels))
    top = np.empty(heads, q.dtype)
    total = np.empty(heads, q.dtype)
    weight = np.empty(heads, q.dtype)
    for i in range(first, last):
        top[:] = -np.inf
        total[:] = 0
        out[i] = 0
        for e in range(ptr[i], ptr[i + 1]):
            j = src[e]
            for h in range(heads):
                product = q.dtype.type(0)
                for c in range(channels):
                    product += q[i, h, c] * k[j, h, c]
                logit = product * scale + bias[e, h]
                logits[e, h] = logit
                top[h] = max(top[h], logit)
        for h in range(heads):
            if top[h] == -np.inf:  # no edge, or all hidden
                top[h] = 0
        for e in range(ptr[i], ptr[i + 1]):
            j = src[e]
            for h in range(heads):
                weight[h] = exp(logits[e, h] - top[h])
                total[h] += weight[h]
            for h in range(heads):
                w = weight[h]
                for c in range(values):
                    out[i, h, c] += w * v[j, h, c]
        for h in range(heads):
            lse[i, h] = 0
            if total[h] > 0:
                lse[i, h] = top[h] + log(total[h])
                w = one / total[h]
                for c in range(values):
                    out[i, h, c] *= w


@compiled
def to_destinations(  # type: ignore[no-untyped-def]
    first, last, q, k, v, logits, out, lse, src, ptr, d_out, d_logits, d_lse, d_q, d_bias, alpha
):
    heads, channels, values = q.shape[1], q.shape[2], v.shape[2]
    one = q.dtype.type(1)  # 1 alone would make doubles of all it meets
    scale = one / np.sqrt(q.dtype.type(channels))
    known = np.empty(heads, q.dtype)
    for i in range(first, last):
        d_q[i] = 0
        for h in range(heads):
            product = q.dtype.type(0)
            for c in range(values):
                product += d_out[i, h, c] * out[i, h, c]
            known[h] = d_lse[i, h] - product
        for e in range(ptr[i], ptr[i + 1]):
            j = src[e]
            for h in range(heads):
                alpha[e, h] = exp(logits[e, h] - lse[i, h])
            for h in range(heads):
                product = q.dtype.type(0)
                for c in range(values):
                    product += d_out[i, h, c] * v[j, h, c]
                slope = alpha[e, h] * (product + known[h]) + d_logits[e, h]
                d_bias[e, h] = slope
                slope *= scale
                for c in range(channels):
                    d_q[i, h, c] += slope * k[j, h, c]


@compiled
def to_sources(  # type: ignore[no-untyped-def]
    first, last, q, d_out, d_bias, alpha, dst, reverse_ptr, reverse_edges, d_k, d_v
):
    heads, channels, values = q.shape[1], q.shape[2], d_out.shape[2]
    one = q.dtype.type(1)  # 1 alone would make doubles of all it meets
    scale = one / np.sqrt(q.dtype.type(channels))
    for j in range(first, last):
        d_k[j] = 0
        d_v[j] = 0
        for place in range(reverse_ptr[j], reverse_ptr[j + 1]):
            e = reverse_edges[place]
            i = dst[e]
            for h in range(heads):
                slope = d_bias[e, h] * scale
                for c in range(channels):
                    d_k[j, h, c] += slope * q[i, h, c]
                weight = alpha[e, h]
                for c in range(values):
                    d_v[j, h, c] += weight * d_out[i, h, c]
