"""Loop that divides counts into two parts, compiled by numba."""

from __future__ import annotations

from stofm_geo.ops.compiled import compiled_exactly


@compiled_exactly
def divide(indptr, indices, value, single, other, first_part, rest):  # type: ignore[no-untyped-def]
    """Write two parts of counts, each as ``indptr``, ``indices`` and ``data``, without zeros.

    ``single`` and ``other`` are what the first part has of counts of 1, and of all others. Indices
    and data have a place more than needed, since an entry is written before it is known to be none.
    """
    ptr_a, indices_a, data_a = first_part
    ptr_b, indices_b, data_b = rest
    a, b, i, j = 0, 0, 0, 0
    ptr_a[0] = 0
    ptr_b[0] = 0
    for row in range(len(indptr) - 1):
        for p in range(indptr[row], indptr[row + 1]):
            # Without a branch, which would be mispredicted.
            is_one = value[p] == 1
            own = value.dtype.type(single[i] if is_one else other[j])
            i += is_one
            j += not is_one
            indices_a[a] = indices[p]
            data_a[a] = own
            a += own > 0
            indices_b[b] = indices[p]
            data_b[b] = value[p] - own
            b += value[p] > own
        ptr_a[row + 1] = a
        ptr_b[row + 1] = b
