"""Cubic interpolation in a table of functions of one variable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stofm_geo.ops import threads
from stofm_geo.ops.autodiff import needs_plain_operations

try:
    from stofm_geo.ops.interpolation import _loops as loops
except ImportError:  # no numba for this Python
    loops = None  # type: ignore[assignment]

_BUCKETS = 4096  # of the range, so that a search starts near its end
_PARTS = 4  # of the edges in the backward; fixed, so that threads do not change the sums


def interpolate(at: Tensor, knots: Tensor, table: Tensor) -> Tensor:
    r"""Interpolate in a table of ``K`` functions by cubic Hermite polynomials.

    Between two knots of distance :math:`h`, at the fraction :math:`t` of it,

    .. math::
        f = (2t^3 - 3t^2 + 1) y_0 + (t^3 - 2t^2 + t) h y'_0 + (3t^2 - 2t^3) y_1 + (t^3 - t^2) h y'_1

    Args:
        at: Arguments, ``[E]``, clamped to the range of the knots.
        knots: Ascending, ``[T]``, at least two. A repeated knot separates the function on its left
            from that on its right (a kink or a jump); the last one occurs once.
        table: Values and derivatives at the knots, ``[T, 2, K]``.

    Returns:
        ``[E, K]``, with gradients to ``table`` only.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import interpolate
        >>> knots = torch.tensor([0.0, 1.0, 2.0])
        >>> table = torch.stack([knots**2, 2 * knots], dim=1)[..., None]  # squares and their slopes
        >>> interpolate(torch.tensor([0.5, 1.5]), knots, table).flatten().tolist()
        [0.25, 2.25]
    """
    plain = loops is None or needs_plain_operations()
    if plain or at.device.type != "cpu" or at.dtype not in (torch.float32, torch.float64):
        return _reference(at, knots, table)
    return _interpolate(at.detach(), knots, table)


def _reference(at: Tensor, knots: Tensor, table: Tensor) -> Tensor:
    at = at.detach().clamp(knots[0], knots[-1])
    left = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
    step = knots[left + 1] - knots[left]
    t = ((at - knots[left]) / step)[:, None]
    return cubic(t, step[:, None], table[left], table[left + 1])


def cubic(t: Tensor | float, step: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Interpolate between knots with values and derivatives ``left`` and ``right``, ``[E, 2, K]``.

    Args:
        t: Fraction of the distance between the knots, a number or ``[E, 1]``.
        step: Distance between the knots, ``[E, 1]``.
        left: Values and derivatives at the knot before.
        right: Values and derivatives at the knot after.
    """
    (y0, m0), (y1, m1) = left.unbind(1), right.unbind(1)
    bend = t * (1 - t) * (m0 * (1 - t) - m1 * t) * step
    return y0 + (y1 - y0) * t * t * (3 - 2 * t) + bend


@torch.library.custom_op("stofm_geo::interpolate_cpu", mutates_args=(), device_types="cpu")
def _interpolate(at: Tensor, knots: Tensor, table: Tensor) -> Tensor:
    out = table.new_empty(at.size(0), table.size(2))
    at_, knots_, table_ = (t.detach().contiguous().numpy() for t in (at, knots, table))
    starts, made = _starts(knots_), out.numpy()
    threads.run_over_rows(
        lambda first, last: loops.forward(first, last, at_, knots_, starts, table_, made),
        np.arange(at.size(0) + 1),
        at.size(0) * table.size(2) // 100,
    )
    return out


def _starts(knots: np.ndarray) -> np.ndarray:
    """Return the first and last knot to search, for each bucket of the range, ``[buckets, 2]``."""
    bounds = np.linspace(knots[0], knots[-1], _BUCKETS + 1)
    before = np.searchsorted(knots, bounds, side="right") - 1
    # One more on either side, for numbers that rounding puts into the next part.
    return np.stack([before[:-1] - 1, before[1:] + 1], axis=1).clip(0, len(knots) - 2)


@_interpolate.register_fake
def _(at, knots, table):  # type: ignore[no-untyped-def]
    return table.new_empty(at.size(0), table.size(2))


@torch.library.custom_op("stofm_geo::interpolate_cpu_backward", mutates_args=(), device_types="cpu")
def _interpolate_backward(d_out: Tensor, at: Tensor, knots: Tensor, table: Tensor) -> Tensor:
    slope, at_, knots_ = (t.detach().contiguous().numpy() for t in (d_out, at, knots))
    starts = _starts(knots_)
    d_table = table.new_zeros(_PARTS, *table.shape)
    made = d_table.numpy()
    cuts = np.linspace(0, at.size(0), _PARTS + 1).astype(np.int64)

    def work(first: int, last: int) -> None:
        for part in range(first, last):
            loops.backward(cuts[part], cuts[part + 1], slope, at_, knots_, starts, made[part])

    threads.run_over_rows(work, np.arange(_PARTS + 1), at.size(0) * table.size(2) // 100)
    return d_table.sum(0)


@_interpolate_backward.register_fake
def _(d_out, at, knots, table):  # type: ignore[no-untyped-def]
    return table.new_empty(table.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, d_out):  # type: ignore[no-untyped-def]
    at, knots, table = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return None, None, _interpolate_backward(d_out, at, knots, table)
    # create_graph: linear in the table, so this gradient depends on d_out alone.
    leaf = table.detach().requires_grad_()
    (d_table,) = torch.autograd.grad(_reference(at, knots, leaf), leaf, d_out, create_graph=True)
    return None, None, d_table


_interpolate.register_autograd(_backward, setup_context=_setup_context)
