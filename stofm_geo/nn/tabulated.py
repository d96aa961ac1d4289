"""Radial functions interpolated in a table, whose cost does not grow with the number of edges.

A :class:`GaussianRadial` is a sum of ReLUs of sums of Gaussians: smooth except for kinks where a
hidden unit changes its sign. The table has a knot at each kink, with values and derivatives on both
sides, and as many knots in between as cubic Hermite interpolation needs. It is a differentiable
function of the parameters. Without gradients, the last tables are kept by the values of all
parameters, not by their identity or version.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stofm_geo.nn.radial import GaussianRadial
from stofm_geo.ops import interpolate
from stofm_geo.ops.autodiff import needs_plain_operations

try:
    from stofm_geo.ops.interpolation.knots import REACH, cubic_roots, gaussian_knots
except ImportError:  # no numba for this Python
    cubic_roots = None  # type: ignore[assignment]

_STEP = 0.25  # of the knots for estimating the error, in standard deviations
_SAFETY = 0.25  # maximum of the estimated error as a fraction of the tolerance
_MAX_PARTS = 64  # of an interval of _STEP
_MOST_KNOTS = 100_000
_KEPT = 8  # tables


def tabulated(
    radial: nn.Module, distance: Tensor, tolerance: float, *, scaled: bool = False
) -> Tensor:
    """Evaluate radial functions, by interpolation in a table if possible and faster.

    The error is within ``tolerance`` of the range of the values. Gradients of the parameters are
    those of the table: within about ten times ``tolerance`` of their size, and within a thousandth
    where two kinks are so close that the table does not separate them.

    Args:
        radial: Module from ``[E]`` to ``[E, n]``. Other modules than a plain
            :class:`GaussianRadial` (subclasses, pruned, quantised or with hooks) are evaluated
            directly.
        distance: Distances ``[E]``, not negative. If they require gradients, no table is used.
        tolerance: Largest error, as a fraction of the range of the values.
        scaled: Whether ``distance`` is the argument of :meth:`GaussianRadial.forward_scaled`, of
            any sign.

    Returns:
        Values ``[E, n]``.
    """
    if not _can_be_tabulated(radial, distance):
        return radial.forward_scaled(distance) if scaled else radial(distance)  # type: ignore[operator]
    parameters = _parameters(radial)  # type: ignore[arg-type]
    content = _Content.of(parameters)
    if trained := torch.is_grad_enabled() and any(own.requires_grad for own in parameters):
        found = _knots(content, tolerance, scaled)
    else:
        found = _constant_table(content, tolerance, scaled, distance.dtype)
    if found is None or len(found[0]) > distance.size(0) // 4:
        return radial.forward_scaled(distance) if scaled else radial(distance)  # type: ignore[operator]
    knots, values = (part.to(distance.device) for part in found)
    if trained:
        knots = knots.to(distance.dtype)  # rounded before the table is computed at them
        values = _table(parameters, knots.double(), values.double(), scaled)
    table = values.to(distance.dtype)
    if not scaled:  # a jump from 0 at distance 0 to the first value
        smallest = torch.finfo(knots.dtype).tiny
        knots = torch.cat([knots.new_tensor([0, smallest]), knots.clamp(min=smallest)])
        table = torch.cat([torch.zeros_like(table[:2]), table])
    return interpolate(distance, knots, table)


def _can_be_tabulated(radial: nn.Module, distance: Tensor) -> bool:
    if type(radial) is not GaussianRadial or cubic_roots is None:
        return False
    if torch.compiler.is_compiling() or needs_plain_operations():  # knots depend on values
        return False
    if distance.requires_grad or distance.dtype not in (torch.float32, torch.float64):
        return False
    linear = (radial.hidden, radial.out)
    if not all(type(module) is nn.Linear and "weight" in module._parameters for module in linear):
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in (radial, *linear)):
        return False
    tensors = [*radial.parameters(), distance]
    # No fake or sharded tensors, and no device without double precision.
    plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
    return plain and all(tensor.device.type in ("cpu", "cuda") for tensor in tensors)


def _parameters(radial: GaussianRadial) -> tuple[Tensor, ...]:
    return (
        radial.scale, radial.shift, radial.mean, radial.std,
        radial.hidden.weight, radial.hidden.bias, radial.out.weight, radial.out.bias,
    )  # fmt: skip


class _Content(NamedTuple):
    """All parameters in double precision. Tables are kept by them, so that none can be stale."""

    numbers: bytes
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, parameters: tuple[Tensor, ...]) -> _Content:
        with torch.no_grad():  # one transfer from a GPU
            flat = torch.cat([own.detach().double().view(-1) for own in parameters]).cpu()
        return cls(flat.numpy().tobytes(), tuple(own.shape for own in parameters))

    def arrays(self) -> list[np.ndarray]:
        ends = np.cumsum([shape.numel() for shape in self.shapes])
        parts = np.split(np.frombuffer(self.numbers).copy(), ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


@lru_cache(_KEPT)
def _constant_table(
    content: _Content, tolerance: float, scaled: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Return knots ``[T]`` in a dtype, and the :func:`_table` there, without gradients.

    ``None`` as :func:`_knots`.
    """
    with torch.inference_mode(False), torch.no_grad():
        if (found := _knots(content, tolerance, scaled)) is None:
            return None
        knots, active = found
        knots = knots.to(dtype)
        parameters = tuple(torch.from_numpy(array) for array in content.arrays())
        return knots, _table(parameters, knots.double(), active.double(), scaled)


def _knots(content: _Content, tolerance: float, scaled: bool) -> tuple[Tensor, Tensor] | None:
    """Return knots ``[T]``, and the mask of hidden units active right of each, ``[T, K]`` bool.

    A kink has two knots; the activity at the first is that on its left. Return ``None`` if there
    would be more than 100 000 knots, or parameters are not finite.
    """
    arrays = content.arrays()
    scale, shift, mean, std, weight, offset, out, _ = arrays
    if not all(np.isfinite(own).all() for own in arrays) or (scale == 0 and not scaled):
        return None
    std = np.abs(std) + 1e-5
    height = 1 / (math.sqrt(2 * math.pi) * std)
    weight = np.ascontiguousarray(weight.T)
    if not scaled:
        mean, std = (mean - shift) / scale, std / abs(scale[0])
    low = float((mean - REACH * std).min()) if scaled else 0.0
    high = max(float((mean + REACH * std).max()), low + std.max())

    def hidden(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values and derivatives of the hidden units."""
        y = (at[:, None] - mean) / std
        gaussians = height * np.exp(np.maximum(-0.5 * y * y, -80))
        return gaussians @ weight + offset, (gaussians * (-y / std)) @ weight

    coarse = gaussian_knots(mean, std, low, high, _STEP)
    if len(coarse) > _MOST_KNOTS:
        return None
    fine = _refined(coarse, hidden, out, tolerance)
    if len(fine) > _MOST_KNOTS:
        return None
    # An additional knot, so that the last one is not a kink.
    fine = np.append(fine, fine[-1] + max(std.max(), 1e-3 * abs(fine[-1])))
    value, slope = hidden(fine)
    kinks, unit = cubic_roots(fine, value, slope)
    kinks = kinks.clip(None, fine[-2])
    knots = np.concatenate([fine, np.repeat(kinks, 2)])
    changes = np.zeros((len(knots), len(offset)), dtype=bool)
    changes[len(fine) + 1 + 2 * np.arange(len(kinks)), unit] = True
    order = np.argsort(knots, kind="stable")
    changes = changes[order]
    changes[0] ^= value[0] > 0
    active = np.logical_xor.accumulate(changes, axis=0)
    return torch.from_numpy(knots[order]), torch.from_numpy(active)


def _refined(coarse: np.ndarray, hidden, out: np.ndarray, tolerance: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return knots so dense that the error, of fourth order in their distance, is tolerated."""
    step = np.diff(coarse)
    (value, slope), (middle, _) = hidden(coarse), hidden(coarse[:-1] + 0.5 * step)
    cubic = 0.5 * (value[:-1] + value[1:]) + step[:, None] / 8 * (slope[:-1] - slope[1:])
    error = np.abs(((middle - cubic) * (middle > 0)) @ out.T).max(axis=1)
    # The error may happen to be 0 in the middle of an interval, so neighbours are included.
    padded = np.pad(error, 1)
    error = np.maximum(error, np.maximum(padded[:-2], padded[2:]))
    everywhere = np.maximum(np.concatenate([value, middle]), 0) @ out.T
    span = np.ptp(everywhere, axis=0).max()
    if span == 0:
        return coarse
    parts = np.ceil((error / (_SAFETY * tolerance * span)) ** 0.25).clip(1, _MAX_PARTS)
    parts = parts.astype(np.int64)
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    fine = np.repeat(coarse[:-1], parts) + np.repeat(step / parts, parts) * within
    return np.append(fine, coarse[-1])


def _table(parameters: tuple[Tensor, ...], at: Tensor, active: Tensor, scaled: bool) -> Tensor:
    """Compute values and derivatives ``[T, 2, n]`` in double, with gradients to the parameters.

    Args:
        parameters: Those of the functions.
        at: Knots ``[T]``.
        active: 1 for the hidden units that are active at a knot, ``[T, K]``.
        scaled: As in :func:`tabulated`.
    """
    scale, shift, mean, std, weight, offset, out, bias = (own.double() for own in parameters)
    std = std.abs() + 1e-5
    y = ((at if scaled else scale * at + shift)[:, None] - mean) / std
    gaussians = (-0.5 * y * y).clamp_min(-80).exp() / (math.sqrt(2 * math.pi) * std)
    slopes = gaussians * (-y / std if scaled else -y / std * scale)
    value = F.linear(gaussians, weight, offset) * active
    slope = F.linear(slopes, weight) * active
    return torch.stack([F.linear(value, out, bias), F.linear(slope, out)], dim=1)
