"""Knots for functions built from Gaussians, and roots of cubics between knots."""

from __future__ import annotations

import math

import numpy as np

from stofm_geo.ops.compiled import compiled_exactly

REACH = 7.0  # standard deviations, from which on a Gaussian is below 1e-10 of its height


def gaussian_knots(
    mean: np.ndarray, std: np.ndarray, low: float, high: float, step: float
) -> np.ndarray:
    """Return knots as dense as the narrowest Gaussian around them requires.

    Args:
        mean: Means of the Gaussians ``[K]``, float64.
        std: Standard deviations ``[K]``, above 0.
        low: First knot.
        high: Last knot.
        step: Largest distance of two knots, in standard deviations of the Gaussians that they are
            within :data:`REACH` of.

    Returns:
        Ascending, float64.
    """
    # Each Gaussian needs 2 REACH / step knots, and one where it begins.
    knots = np.empty(len(mean) * (math.ceil(2 * REACH / step) + 2) + 2)
    return knots[: _spread(mean, std, low, high, step, knots)].copy()


def cubic_roots(
    knots: np.ndarray, values: np.ndarray, slopes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where cubic Hermite interpolants change between positive and not positive.

    Args:
        knots: Ascending ``[T]``, float64.
        values: Values of ``U`` functions at the knots ``[T, U]``.
        slopes: Their derivatives ``[T, U]``.

    Returns:
        Positions, and the function of each; in no order.
    """
    where, which = np.empty(3 * values.size), np.empty(3 * values.size, dtype=np.int64)
    count = _roots(knots, values, slopes, where, which)
    return where[:count], which[:count]


@compiled_exactly
def _spread(mean, std, low, high, step, knots):  # type: ignore[no-untyped-def]
    count, x = 0, low
    while x < high and count < knots.shape[0] - 1:
        knots[count] = x
        count += 1
        ahead = high - x
        for k in range(mean.shape[0]):
            start = mean[k] - REACH * std[k]
            if x < start:
                ahead = min(ahead, start - x)  # no narrow one is jumped over
            elif x < mean[k] + REACH * std[k]:
                ahead = min(ahead, step * std[k])
        x = max(x + ahead, np.nextafter(x, high))
    knots[count] = high
    return count + 1


@compiled_exactly
def _cubic(t, y0, m0, y1, m1):  # type: ignore[no-untyped-def]
    rise = y1 - y0
    return y0 + t * (m0 + t * (3 * rise - 2 * m0 - m1 + t * (m0 + m1 - 2 * rise)))


@compiled_exactly
def _roots(knots, values, slopes, where, which):  # type: ignore[no-untyped-def]
    count = 0
    turns = np.empty(4)  # between these shares of an interval a cubic is monotonic
    for i in range(knots.shape[0] - 1):
        width = knots[i + 1] - knots[i]
        for u in range(values.shape[1]):
            y0, y1 = values[i, u], values[i + 1, u]
            m0, m1 = width * slopes[i, u], width * slopes[i + 1, u]
            first, last = y0 > 0, y1 > 0
            # A cubic lies within the hull of its Bernstein coefficients.
            if first == last == (y0 + m0 / 3 > 0) == (y1 - m1 / 3 > 0):
                continue
            # The derivative is a t^2 + 2 b t + m0.
            a, b = 3 * (m0 + m1 - 2 * (y1 - y0)), 3 * (y1 - y0) - 2 * m0 - m1
            turns[0], turns[1], turns[2], turns[3] = 0, 1, 1, 1
            if b * b > a * m0:
                q = -(b + math.copysign(math.sqrt(b * b - a * m0), b))
                s, t = (q / a if a != 0 else 2.0), (m0 / q if q != 0 else 2.0)
                if 0 < min(s, t) < 1:
                    turns[1] = min(s, t)
                if 0 < max(s, t) < 1:
                    turns[1 if turns[1] == 1 else 2] = max(s, t)
            for piece in range(3):
                left, right = turns[piece], turns[piece + 1]
                before = first if left == 0 else _cubic(left, y0, m0, y1, m1) > 0
                after = last if right == 1 else _cubic(right, y0, m0, y1, m1) > 0
                if left < right and before != after:
                    for _ in range(50):
                        middle = 0.5 * (left + right)
                        if (_cubic(middle, y0, m0, y1, m1) > 0) == before:
                            left = middle
                        else:
                            right = middle
                    where[count] = knots[i] + right * width
                    which[count] = u
                    count += 1
    return count
