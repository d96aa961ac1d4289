"""Geometry of the edges: distances, directions and circular harmonics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from stofm_geo._validation import check_positive
from stofm_geo.nn._validation import check_radial
from stofm_geo.nn.tabulated import tabulated
from stofm_geo.ops.edge_sum import compute_dtype

_TABLE_MIN_EDGES = 10_000  # below, a table is slower


def edge_geometry(
    pos: tuple[Tensor, Tensor], edge_index: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute length and direction of each edge, from the destination to the source.

    Args:
        pos: Positions of the sources ``[M, 2]`` and of the destinations ``[N, 2]``. A node with
            NaN or infinity has no position.
        edge_index: Edges ``[2, E]``, sources and destinations.
        dtype: Dtype of the result; differences are computed in that of the positions.

    Returns:
        Lengths ``[E]``, and unit vectors towards the source ``[E, 2]``. Both are 0 where source
        and destination coincide, or one of them has no position.
    """
    dtypes = [compute_dtype(p.dtype) if p.is_floating_point() else torch.float64 for p in pos]
    source, destination = (p.to(wide) for p, wide in zip(pos, dtypes, strict=True))
    delta = source.index_select(0, edge_index[0]) - destination.index_select(0, edge_index[1])
    delta = torch.where(delta.isfinite().all(dim=1, keepdim=True), delta, 0)
    square = delta.square().sum(dim=1)
    distinct = square > 0
    # Square root of 1 where the length is 0, so that the gradient is 0 and not NaN.
    length = torch.where(distinct, square, 1).sqrt()
    unit = delta / length[:, None]
    return torch.where(distinct, length, 0).to(dtype), unit.to(dtype)


def circular_harmonics(unit: Tensor, max_order: int) -> Tensor:
    r"""Compute :math:`(\cos m\theta, \sin m\theta)` of unit vectors of angle :math:`\theta`.

    They are computed by the recursion :math:`z^m = z^{m-1} z` of complex numbers. A vector of
    length 0 gives 0.

    Args:
        unit: Unit vectors ``[E, 2]``.
        max_order: Highest order ``M``; orders are :math:`m = 1 \ldots M`.

    Returns:
        Harmonics ``[E, M, 2]``.
    """
    x, y = unit.unbind(dim=1)
    cos, sin = x, y
    orders = [unit]
    for _ in range(max_order - 1):
        cos, sin = cos * x - sin * y, cos * y + sin * x
        orders.append(torch.stack([cos, sin], dim=1))
    return torch.stack(orders, dim=1)


class EdgeGeometry(nn.Module):
    """Bias and directions that an attention layer computes from positions.

    Args:
        heads: Number of heads ``H``.
        radial: Constructor of the radial functions, given their number; ``None``: directions only.
        max_order: Highest circular order ``M``; ``None``: distances only.
        tolerance: Largest error of a :class:`GaussianRadial` on 10 000 edges or more in single
            precision, where it is interpolated in a table, as a fraction of the range of its
            values; ``None``: exact.

    Raises:
        TypeError, ValueError: ``radial`` is no constructor, or ``tolerance`` not above 0.
    """

    def __init__(
        self,
        heads: int,
        radial: Callable[[int], nn.Module] | None,
        max_order: int | None = None,
        tolerance: float | None = 1e-5,
    ) -> None:
        super().__init__()
        if radial is not None:
            check_radial(radial)
        if tolerance is not None:
            check_positive("tolerance", tolerance)
        self.heads = heads
        self.max_order = max_order or 0
        self.tolerance = tolerance
        # A bias of the logits per head, then a weight of the directions per order and head.
        self.radial: nn.Module | None = radial(heads * (1 + self.max_order)) if radial else None

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        reset(self.radial)

    def forward(
        self, pos: tuple[Tensor, Tensor], edge_index: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute bias, weights of the directions, and directions.

        Args:
            pos: Positions of sources and destinations, in double precision if they are large.
            edge_index: ``[2, E]``.
            dtype: Dtype of the parameters. Half precision is computed in single precision, also
                under autocast: rounding a bias to 8 bits changes attention weights by percents.

        Returns:
            Bias of the logits ``[E, H]``; and, or ``None`` without ``max_order``, weights of the
            directions, which depend on the distance, ``[E, M, H]``, and circular harmonics of the
            directions ``[E, M, 2]``.
        """
        device = pos[0].device.type
        available = torch.amp.is_autocast_available(device)  # not on meta
        with torch.autocast(device, enabled=False) if available else nullcontext():
            distance, unit = edge_geometry(pos, edge_index, compute_dtype(dtype))
            return self._weighted(distance, unit)

    def _weighted(
        self, distance: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        shape = (distance.size(0), self.heads)  # len() would fix it for torch.export
        weight = harmonics = None
        if self.max_order:
            harmonics = circular_harmonics(unit, self.max_order)
        if self.radial is None:
            if harmonics is not None:
                weight = distance.new_ones(shape[0], self.max_order, self.heads)
            return distance.new_zeros(shape), weight, harmonics
        values = self._values(self.radial, distance)
        bias, scale = values.split([self.heads, self.heads * self.max_order], 1)
        if hasattr(self.radial, "log_envelope"):
            bias = bias + self.radial.log_envelope(distance)[:, None]  # type: ignore[operator]
        if harmonics is not None:
            weight = 1 + scale.unflatten(1, (-1, self.heads))
        return bias, weight, harmonics

    def _values(self, radial: nn.Module, distance: Tensor) -> Tensor:
        values = self._tabulated_or_exact(radial, distance)
        count = self.heads * (1 + self.max_order)
        if values.dim() != 2 or values.size(1) != count:
            raise ValueError(
                f"radial must give [E, n] from distances [E], of n={count} functions; "
                f"found {list(values.shape)}"
            )
        return values

    def _tabulated_or_exact(self, radial: nn.Module, distance: Tensor) -> Tensor:
        # Double precision is for exact values. Compiled programs use no table, since its size
        # depends on values.
        if self.tolerance is not None and not torch.compiler.is_compiling():
            if distance.dtype == torch.float32 and distance.size(0) >= _TABLE_MIN_EDGES:
                return tabulated(radial, distance, self.tolerance)
        if any(parameter.dtype.itemsize < 4 for parameter in radial.parameters()):
            state = {**dict(radial.named_parameters()), **dict(radial.named_buffers())}
            single = {key: value.float() for key, value in state.items()}
            return torch.func.functional_call(radial, single, (distance,))
        return radial(distance)
