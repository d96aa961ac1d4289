"""Radial functions from a table: their cost no longer grows with the number of edges."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stofm_geo.ops.interpolation import cubic, interpolate

_FIRST = 128  # intervals to begin with
_ROUNDS = 24  # most halvings of an interval
_REFRESH = 100  # training steps that share their knots


class Tabulated:
    """A radial function, evaluated on knots and interpolated in between.

    Knots lie as densely as the function needs: intervals are halved until the interpolation, tried
    at five places in each, is within half the tolerance. In evaluation, knots
    and table are kept as long as the parameters stay. In training, the table is made anew each time
    and carries gradients to the parameters; the knots are kept for some steps.

    Args:
        tolerance: Largest error, as a share of the range of the function's values.
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self._kept: dict[object, _Kept] = {}

    def __call__(self, radial: nn.Module, distance: Tensor) -> Tensor:
        """``[E]`` distances to ``[E, n]``, as ``radial`` would; no gradients to distances.

        Numbers below 0 are read from a table of their own range, too.
        """
        training = torch.is_grad_enabled() and any(p.requires_grad for p in radial.parameters())
        # A power of two, and a table for each: what came before does not change what comes out.
        low, high = -_bound(-float(distance.min())), _bound(float(distance.max()))
        key = low, high, distance.dtype, distance.device, training
        state = None if training else [(p.data_ptr(), p._version) for p in radial.parameters()]
        kept = self._kept.get(key)
        if kept is None or kept.state != state or (training and kept.uses == _REFRESH):
            # In double: the rounding of single precision may be above the tolerance, and no
            # number of knots below it.
            exact = copy.deepcopy(radial).double()
            with torch.no_grad():
                knots = _knots(exact, low, high, distance.double(), self.tolerance)
                knots = knots.to(distance.dtype)
                if low == 0:  # 0 itself is a case of its own
                    knots = knots.clamp_min(torch.finfo(distance.dtype).tiny)
                knots = knots.unique()
                table = None if training else _table(exact, knots.double()).to(distance.dtype)
                kept = _Kept(state, knots, table)
            self._kept[key] = kept
        kept.uses += 1
        table = _table(radial, kept.knots) if kept.table is None else kept.table
        value = interpolate(distance, kept.knots, table)
        # No distance at all is a case of its own, not the limit of short ones.
        return torch.where((distance == 0)[:, None], radial(distance.new_zeros(1)), value)

    def forget(self) -> None:
        """Lay all knots anew."""
        self._kept.clear()


@dataclass
class _Kept:
    state: object
    knots: Tensor
    table: Tensor | None
    uses: int = 0


def _table(radial: nn.Module, at: Tensor) -> Tensor:
    """Values and derivatives ``[T, 2, n]``."""
    return torch.stack(torch.func.jvp(radial, (at,), (torch.ones_like(at),)), dim=1)


def _bound(most: float) -> float:
    """The power of two above; 0 where all are below."""
    return 2.0 ** math.ceil(math.log2(max(most, 1e-3))) if most > 0 else 0.0


def _knots(radial: nn.Module, low: float, high: float, like: Tensor, tolerance: float) -> Tensor:
    """Knots from ``low``, or just above 0, to ``high``."""
    knots = torch.linspace(low, high, _FIRST + 1, dtype=like.dtype, device=like.device)
    if low == 0:
        knots[0] = torch.finfo(like.dtype).tiny
    done: list[Tensor] = []
    left, right = knots[:-1], knots[1:]
    values = radial(knots)
    span = (values.amax(0) - values.amin(0)).amax().clamp_min(torch.finfo(like.dtype).tiny)
    for _ in range(_ROUNDS):
        done.append(left)
        ends = torch.cat([left, right])
        start, end = _table(radial, ends).split(len(left))
        worst = torch.zeros_like(left)
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            at = left + share * (right - left)
            found = cubic(share, (right - left)[:, None], start, end)
            worst = torch.maximum(worst, (found - radial(at)).abs().amax(1))
        middle = left + 0.5 * (right - left)
        bad = (worst > 0.5 * tolerance * span) & (middle > left) & (middle < right)
        if not bad.any():
            break
        left, middle, right = left[bad], middle[bad], right[bad]
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
    return torch.cat([*done, knots[-1:]]).unique()
