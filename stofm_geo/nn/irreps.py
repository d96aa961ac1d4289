"""Conversion of scalars and planar vectors to and from e3nn's irreps."""

from __future__ import annotations

from functools import cache

import torch
from e3nn import o3
from torch import Tensor

MAX_ORDER = 12  # the highest degree of e3nn's spherical harmonics


def planar_irreps(channels: int, vector_channels: int = 0, max_order: int = 0) -> o3.Irreps:
    """Return the e3nn irreps of scalars and of vectors of order 1 to ``max_order``.

    Args:
        channels: Number of scalars.
        vector_channels: Number of vectors of each order (default 0).
        max_order: Highest circular order of the vectors (default 0: no vectors).

    Returns:
        Irreps of ``channels`` scalars ``0e``, then ``vector_channels`` of degree 1 (``1o``), degree
        2 (``2e``), and so on.

    Examples:
        >>> from stofm_geo.nn import planar_irreps
        >>> planar_irreps(16, 4, 2)
        16x0e+4x1o+4x2e
    """
    vectors = [(vector_channels, (order, (-1) ** order)) for order in range(1, max_order + 1)]
    kinds = [(channels, (0, 1)), *vectors]
    return o3.Irreps([kind for kind in kinds if kind[0]])


def to_irreps(x: Tensor, vectors: Tensor | None = None) -> Tensor:
    """Concatenate scalars and planar vectors in e3nn's layout.

    A vector of order 1 becomes a ``1o`` with ``z = 0``; one of order ``m`` becomes the two
    components of degree ``m`` that rotate like it. Norms and inner products are preserved.

    Args:
        x: Scalars ``[N, C]``.
        vectors: Planar vectors ``[N, M, V, 2]``, or ``None``.

    Returns:
        ``[N, irreps.dim]`` with the irreps of ``planar_irreps(C, V, M)``.

    Raises:
        ValueError: There are vectors of an order above 12, the highest of e3nn.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import planar_irreps, to_irreps
        >>> x, vectors = torch.ones(3, 2), torch.ones(3, 2, 1, 2)
        >>> to_irreps(x, vectors).shape, planar_irreps(2, 1, 2).dim
        (torch.Size([3, 10]), 10)
    """
    if vectors is None:
        return x
    parts = [x]
    for order, vector in enumerate(vectors.unbind(1), start=1):
        parts.append((vector @ _plane(order).to(vector).t()).flatten(1))
    return torch.cat(parts, dim=1)


def from_irreps(features: Tensor, irreps: o3.Irreps | str) -> tuple[Tensor, Tensor | None]:
    """Extract scalars and planar vectors from a tensor in e3nn's layout.

    Components out of the plane are dropped; rotations in the plane do not mix them with the others.

    Args:
        features: Features ``[N, irreps.dim]``.
        irreps: As returned by :func:`planar_irreps`.

    Returns:
        Scalars ``[N, C]`` and vectors ``[N, M, V, 2]`` (``None`` if there are none).

    Raises:
        ValueError: Irreps have another form or an order above 12, or features another size.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import from_irreps
        >>> x, vectors = from_irreps(torch.zeros(3, 10), "2x0e+1x1o+1x2e")
        >>> x.shape, vectors.shape
        (torch.Size([3, 2]), torch.Size([3, 2, 1, 2]))
    """
    irreps = o3.Irreps(irreps)
    scalars, orders = irreps.count("0e"), max(irreps.ls, default=0)
    width = irreps[-1].mul if orders else 0
    if irreps != planar_irreps(scalars, width, orders):
        raise ValueError(
            "irreps must be scalars, then as many vectors of each order from 1 on, such as "
            f"16x0e+4x1o+4x2e; found {irreps}"
        )
    if features.dim() != 2 or features.shape[1] != irreps.dim:
        raise ValueError(
            f"features must be [N, {irreps.dim}] for irreps {irreps}; found {list(features.shape)}"
        )
    sizes = [scalars, *(width * (2 * order + 1) for order in range(1, orders + 1))]
    x, *parts = features.split(sizes, dim=1)
    vectors = [
        part.view(-1, width, 2 * order + 1) @ _plane(order).to(part)
        for order, part in enumerate(parts, start=1)
    ]
    return x, torch.stack(vectors, dim=1) if vectors else None


@cache
@torch.inference_mode(False)
def _plane(order: int) -> Tensor:
    """Return the embedding of planar vectors in e3nn's irrep of degree ``order``.

    Returns:
        Orthonormal columns ``[2 order + 1, 2]`` float64: the components of a planar unit vector of
        angle ``theta`` are ``cos(order theta)`` and ``sin(order theta)`` in them.

    Raises:
        ValueError: ``order`` is above 12, the maximum of e3nn's spherical harmonics.
    """
    if order > MAX_ORDER:
        raise ValueError(f"e3nn has spherical harmonics up to order {MAX_ORDER}; found {order}")
    theta = torch.arange(4 * order + 4, dtype=torch.float64, device="cpu") * (
        torch.pi / (2 * order + 2)
    )
    circle = torch.stack([theta.cos(), theta.sin(), torch.zeros_like(theta)], dim=1)
    spherical = o3.spherical_harmonics(order, circle, normalize=False, normalization="norm")
    columns = spherical.t() @ torch.stack([(order * theta).cos(), (order * theta).sin()], dim=1)
    return columns / columns[:, 0].norm()
