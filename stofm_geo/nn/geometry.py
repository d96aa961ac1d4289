"""Where neighbours lie: distances, directions, and their circular harmonics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from stofm_geo.nn.radial import GaussianRadial
from stofm_geo.nn.tabulated import Tabulated

_MANY = 10_000  # edges from which a table pays
MAX_ORDER = 12  # as far as e3nn's spherical harmonics go


def edge_geometry(
    pos: tuple[Tensor, Tensor], edge_index: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Length and direction of each edge, seen from its destination.

    Args:
        pos: Positions of the sources ``[M, 2]`` and of the destinations ``[N, 2]``. A node with
            NaN has no place.
        edge_index: ``[2, E]``, rows source and destination.
        dtype: Of the result; differences are taken in the positions' own.

    Returns:
        Lengths ``[E]``, and unit vectors towards the source ``[E, 2]``. Both are 0 where source
        and destination are at the same place, or one of them has no place.
    """
    delta = pos[0].index_select(0, edge_index[0]) - pos[1].index_select(0, edge_index[1])
    delta = torch.where(delta.isnan().any(dim=1, keepdim=True), 0, delta)
    square = delta.square().sum(dim=1)
    apart = square > 0
    # The root of a stand-in, so that the gradient is 0 and not NaN where the length is 0.
    length = torch.where(apart, square, 1).sqrt()
    unit = delta / length[:, None]
    return torch.where(apart, length, 0).to(dtype), unit.to(dtype)


class CircularHarmonics(nn.Module):
    r"""Unit vectors of angle :math:`\theta` to :math:`(\cos m\theta, \sin m\theta)`.

    For orders :math:`m = 1 \ldots M`, read from e3nn's spherical harmonics of the plane ``z = 0``:
    those of degree :math:`m` hold one pair of components that turn :math:`m` times as fast as the
    plane. A vector of length 0 gives 0.

    Args:
        max_order: ``M``, 1 to 12.

    Raises:
        ValueError: ``max_order`` is not 1 to 12.
    """

    planes: Tensor

    def __init__(self, max_order: int) -> None:
        super().__init__()
        if not 1 <= max_order <= MAX_ORDER:
            raise ValueError(f"max_order must be 1 to {MAX_ORDER}; found {max_order}")
        self.max_order = max_order
        self.spherical = o3.SphericalHarmonics(
            list(range(1, max_order + 1)), normalize=False, normalization="norm"
        )
        planes = [plane_of(order) for order in range(1, max_order + 1)]
        # In double, so that a layer made in single precision is exact once it is .double().
        exact = torch.block_diag(*(plane / scale for plane, scale in planes))
        self.register_buffer("planes", exact, persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """``[E, 2]`` to ``[E, M, 2]``."""
        flat = torch.cat([unit, torch.zeros_like(unit[:, :1])], dim=1)
        return (self.spherical(flat) @ self.planes.to(unit)).unflatten(1, (self.max_order, 2))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_order={self.max_order})"


class EdgeGeometry(nn.Module):
    """What a layer of attention sees of the positions.

    Args:
        heads: Number of heads ``H``.
        radial: Makes the radial functions, from their number; ``None`` for directions alone.
        max_order: Highest circular order ``M``; ``None`` for distances alone.
        tolerance: Largest error of a :class:`GaussianRadial` on many edges, where it is read from a
            table, as a share of the range of its values; ``None`` for exact evaluation.
    """

    def __init__(
        self,
        heads: int,
        radial: Callable[[int], nn.Module] | None,
        max_order: int | None = None,
        tolerance: float | None = 1e-5,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.max_order = max_order or 0
        # A bias of the logits for each head, then a weight of the directions for each and order.
        self.radial: nn.Module | None = radial(heads * (1 + self.max_order)) if radial else None
        self.tabulated = None
        if tolerance is not None and isinstance(self.radial, GaussianRadial):
            self.tabulated = Tabulated(tolerance)
        self.harmonics = None if max_order is None else CircularHarmonics(max_order)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        reset(self.radial)

    def forward(
        self, pos: tuple[Tensor, Tensor], edge_index: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """See.

        Args:
            pos: Positions of sources and destinations, in double where they are large.
            edge_index: ``[2, E]``.
            dtype: Of the result.

        Returns:
            Bias of the logits ``[E, H]``, and harmonics of the directions, weighted by distance,
            ``[E, H, M, 2]`` (``None`` without ``max_order``).
        """
        distance, unit = edge_geometry(pos, edge_index, dtype)
        shape = (distance.size(0), self.heads)  # len() would fix it for torch.export
        waves = None
        if self.harmonics is not None:
            waves = self.harmonics(unit)[:, None].expand(*shape, -1, -1)
        if self.radial is None:
            return distance.new_zeros(shape), waves
        values = self._values(self.radial, distance)
        bias, weight = values.split([self.heads, self.heads * self.max_order], 1)
        if hasattr(self.radial, "log_envelope"):
            bias = bias + self.radial.log_envelope(distance)[:, None]  # type: ignore[operator]
        if waves is not None:
            waves = waves * (1 + weight.unflatten(1, (self.heads, -1))[..., None])
        return bias, waves

    def forget(self) -> None:
        """Keep nothing of earlier calls, which in training moves results within the tolerance.

        For training that is to go on, bit for bit, from weights alone.
        """
        if self.tabulated is not None:
            self.tabulated.forget()

    def _values(self, radial: nn.Module, distance: Tensor) -> Tensor:
        if (
            self.tabulated is None
            or torch.compiler.is_compiling()  # knots depend on values
            or distance.size(0) < _MANY
            or distance.requires_grad
        ):
            return radial(distance)
        return self.tabulated(radial, distance)


@torch.inference_mode(False)
def plane_of(order: int) -> tuple[Tensor, float]:
    """Where in e3nn's irreducible representation of degree ``order`` the planar vectors are.

    Returns:
        Orthonormal columns ``[2 order + 1, 2]`` float64: the components that a planar unit vector
        of angle ``theta`` fills with ``cos(order theta)`` and ``sin(order theta)``; and the factor
        they have in the spherical harmonics.
    """
    theta = torch.arange(4 * order + 4, dtype=torch.float64, device="cpu") * (
        torch.pi / (2 * order + 2)
    )
    circle = torch.stack([theta.cos(), theta.sin(), torch.zeros_like(theta)], dim=1)
    harmonics = o3.spherical_harmonics(order, circle, normalize=False, normalization="norm")
    waves = torch.stack([(order * theta).cos(), (order * theta).sin()], dim=1)
    columns = harmonics.t() @ waves * (2 / len(theta))
    scale = columns[:, 0].norm().item()
    return columns / scale, scale
