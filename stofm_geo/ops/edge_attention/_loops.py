"""The loops of the CPU kernel, compiled by numba.

Each function walks rows ``first`` to ``last`` (of destinations, or of sources) and writes nothing
but what belongs to them. Edges are taken four at a time, so that what a row keeps is read and
written once for four. The number of channels is left to run time on purpose: known to the
compiler, inner loops are unrolled before they could be vectorised, and take three times as long.
"""

from __future__ import annotations

import numpy as np

from stofm_geo.ops.compiled import compiled, exp, log


@compiled
def forward(first, last, q, k, v, bias, src, ptr, logits, out, lse):  # type: ignore[no-untyped-def]
    heads, channels, values = q.shape[1], q.shape[2], v.shape[2]
    zero, one = q.dtype.type(0), q.dtype.type(1)  # 0 and 1 would make doubles of all they meet
    scale = one / np.sqrt(q.dtype.type(channels))
    top = np.empty(heads, q.dtype)
    total = np.empty(heads, q.dtype)
    weight = np.empty((4, heads), q.dtype)
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        fours = start + (end - start) // 4 * 4
        top[:] = -np.inf
        total[:] = 0
        out[i] = 0
        for e in range(start, fours, 4):
            j0, j1, j2, j3 = src[e], src[e + 1], src[e + 2], src[e + 3]
            for h in range(heads):
                p0, p1, p2, p3 = zero, zero, zero, zero
                for c in range(channels):
                    x = q[i, h, c]
                    p0 += x * k[j0, h, c]
                    p1 += x * k[j1, h, c]
                    p2 += x * k[j2, h, c]
                    p3 += x * k[j3, h, c]
                p0 = p0 * scale + bias[e, h]
                p1 = p1 * scale + bias[e + 1, h]
                p2 = p2 * scale + bias[e + 2, h]
                p3 = p3 * scale + bias[e + 3, h]
                logits[e, h] = p0
                logits[e + 1, h] = p1
                logits[e + 2, h] = p2
                logits[e + 3, h] = p3
                top[h] = max(top[h], max(max(p0, p1), max(p2, p3)))
        for e in range(fours, end):
            j = src[e]
            for h in range(heads):
                p0 = zero
                for c in range(channels):
                    p0 += q[i, h, c] * k[j, h, c]
                p0 = p0 * scale + bias[e, h]
                logits[e, h] = p0
                top[h] = max(top[h], p0)
        for h in range(heads):
            if top[h] == -np.inf:  # no edge, or all hidden
                top[h] = 0
        for e in range(start, fours, 4):
            j0, j1, j2, j3 = src[e], src[e + 1], src[e + 2], src[e + 3]
            for r in range(4):
                for h in range(heads):
                    weight[r, h] = exp(logits[e + r, h] - top[h])
            for h in range(heads):
                w0, w1, w2, w3 = weight[0, h], weight[1, h], weight[2, h], weight[3, h]
                total[h] += (w0 + w1) + (w2 + w3)
                for c in range(values):
                    out[i, h, c] += (w0 * v[j0, h, c] + w1 * v[j1, h, c]) + (
                        w2 * v[j2, h, c] + w3 * v[j3, h, c]
                    )
        for e in range(fours, end):
            j = src[e]
            for h in range(heads):
                w0 = exp(logits[e, h] - top[h])
                total[h] += w0
                for c in range(values):
                    out[i, h, c] += w0 * v[j, h, c]
        for h in range(heads):
            lse[i, h] = 0
            if total[h] > 0:
                lse[i, h] = top[h] + log(total[h])
                w0 = one / total[h]
                for c in range(values):
                    out[i, h, c] *= w0


@compiled
def to_destinations(  # type: ignore[no-untyped-def]
    first, last, q, k, v, logits, out, lse, src, ptr, d_out, d_logits, d_lse, d_q, d_bias, alpha
):
    heads, channels, values = q.shape[1], q.shape[2], v.shape[2]
    zero, one = q.dtype.type(0), q.dtype.type(1)
    scale = one / np.sqrt(q.dtype.type(channels))
    known = np.empty(heads, q.dtype)
    for i in range(first, last):
        start, end = ptr[i], ptr[i + 1]
        fours = start + (end - start) // 4 * 4
        d_q[i] = 0
        for h in range(heads):
            p0 = zero
            for c in range(values):
                p0 += d_out[i, h, c] * out[i, h, c]
            known[h] = d_lse[i, h] - p0
        for e in range(start, end):
            for h in range(heads):
                alpha[e, h] = exp(logits[e, h] - lse[i, h])
        for e in range(start, fours, 4):
            j0, j1, j2, j3 = src[e], src[e + 1], src[e + 2], src[e + 3]
            for h in range(heads):
                p0, p1, p2, p3 = zero, zero, zero, zero
                for c in range(values):
                    x = d_out[i, h, c]
                    p0 += x * v[j0, h, c]
                    p1 += x * v[j1, h, c]
                    p2 += x * v[j2, h, c]
                    p3 += x * v[j3, h, c]
                p0 = alpha[e, h] * (p0 + known[h]) + d_logits[e, h]
                p1 = alpha[e + 1, h] * (p1 + known[h]) + d_logits[e + 1, h]
                p2 = alpha[e + 2, h] * (p2 + known[h]) + d_logits[e + 2, h]
                p3 = alpha[e + 3, h] * (p3 + known[h]) + d_logits[e + 3, h]
                d_bias[e, h] = p0
                d_bias[e + 1, h] = p1
                d_bias[e + 2, h] = p2
                d_bias[e + 3, h] = p3
                for c in range(channels):
                    d_q[i, h, c] += (p0 * k[j0, h, c] + p1 * k[j1, h, c]) + (
                        p2 * k[j2, h, c] + p3 * k[j3, h, c]
                    )
        for e in range(fours, end):
            j = src[e]
            for h in range(heads):
                p0 = zero
                for c in range(values):
                    p0 += d_out[i, h, c] * v[j, h, c]
                p0 = alpha[e, h] * (p0 + known[h]) + d_logits[e, h]
                d_bias[e, h] = p0
                for c in range(channels):
                    d_q[i, h, c] += p0 * k[j, h, c]
        for h in range(heads):
            for c in range(channels):
                d_q[i, h, c] *= scale


@compiled
def to_sources(  # type: ignore[no-untyped-def]
    first, last, q, d_out, d_bias, alpha, dst, reverse_ptr, reverse_edges, d_k, d_v
):
    heads, channels, values = q.shape[1], q.shape[2], d_out.shape[2]
    one = q.dtype.type(1)
    scale = one / np.sqrt(q.dtype.type(channels))
    for j in range(first, last):
        start, end = reverse_ptr[j], reverse_ptr[j + 1]
        fours = start + (end - start) // 4 * 4
        d_k[j] = 0
        d_v[j] = 0
        for place in range(start, fours, 4):
            e0, e1 = reverse_edges[place], reverse_edges[place + 1]
            e2, e3 = reverse_edges[place + 2], reverse_edges[place + 3]
            i0, i1, i2, i3 = dst[e0], dst[e1], dst[e2], dst[e3]
            for h in range(heads):
                s0, s1, s2, s3 = d_bias[e0, h], d_bias[e1, h], d_bias[e2, h], d_bias[e3, h]
                for c in range(channels):
                    d_k[j, h, c] += (s0 * q[i0, h, c] + s1 * q[i1, h, c]) + (
                        s2 * q[i2, h, c] + s3 * q[i3, h, c]
                    )
                w0, w1, w2, w3 = alpha[e0, h], alpha[e1, h], alpha[e2, h], alpha[e3, h]
                for c in range(values):
                    d_v[j, h, c] += (w0 * d_out[i0, h, c] + w1 * d_out[i1, h, c]) + (
                        w2 * d_out[i2, h, c] + w3 * d_out[i3, h, c]
                    )
        for place in range(fours, end):
            e = reverse_edges[place]
            i = dst[e]
            for h in range(heads):
                s0, w0 = d_bias[e, h], alpha[e, h]
                for c in range(channels):
                    d_k[j, h, c] += s0 * q[i, h, c]
                for c in range(values):
                    d_v[j, h, c] += w0 * d_out[i, h, c]
        for h in range(heads):
            for c in range(channels):
                d_k[j, h, c] *= scale
