"""Equivariant vector features of the attention layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from stofm_geo.ops import EdgeGraph, edge_sum


class VectorChannels(nn.Module):
    r"""Vector features of circular order :math:`m = 1 \ldots M` under the attention of a layer.

    A rotation of the plane by :math:`\phi` rotates a vector of order :math:`m` by :math:`m\phi`. A
    message to node :math:`i` is built from the direction of its neighbour and the neighbour's
    vectors,

    .. math::
        \vec{m}_{ji} = w_m(d_{ji}) \, (\cos m\theta_{ji}, \sin m\theta_{ji}) \, (W_u x_j)
        + W_v \vec{v}_j

    Invariants of the attended sum :math:`\vec{a}` are added to the scalars: norms, inner products
    and, unless ``reflections``, cross products of two linear maps of it (after PaiNN, arXiv
    2102.03150, which has the first two). The output vectors are :math:`\vec{a}`, gated by the new
    scalars.

    Args:
        in_channels: Number of scalars of the sources; -1 to infer it from the first input.
        out_channels: Number of scalars of the output of the layer.
        vector_channels: ``V``, vectors per head and order.
        heads: ``H``, number of heads.
        concat: Concatenate the heads, else average them.
        in_vector_channels: Input vectors per order.
        max_order: ``M``, highest circular order.
        reflections: Leave out cross products, which change sign under reflection.
        root_weight: Add a linear map of the vectors of the destination.
        out_vectors: Whether vectors are returned.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        vector_channels: int,
        *,
        heads: int,
        concat: bool,
        in_vector_channels: int,
        max_order: int,
        reflections: bool,
        root_weight: bool,
        out_vectors: bool,
    ) -> None:
        super().__init__()
        self.shape = (heads, max_order, vector_channels)
        self.concat = concat
        self.in_vector_channels = in_vector_channels
        self.reflections = reflections
        width = heads * vector_channels if concat else vector_channels
        self.lin_direction = Linear(in_channels, math.prod(self.shape))
        self.lin_vector: nn.Module | None = None
        self.lin_root: nn.Module | None = None
        self.lin_gate: nn.Module | None = None
        if in_vector_channels:
            self.lin_vector = _PerOrder(in_vector_channels, heads * vector_channels, max_order)
        if in_vector_channels and root_weight:
            self.lin_root = _PerOrder(in_vector_channels, width, max_order)
        self.lin_pair = _PerOrder(width, 2 * width, max_order)
        kinds = 2 if reflections else 3
        self.lin_invariant = Linear(kinds * max_order * width, out_channels, bias=False)
        if out_vectors:
            self.lin_gate = Linear(out_channels, max_order * width)

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]

    def values(self, x: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the contributions of the sources.

        Args:
            x: Scalars of the sources ``[N, C]``.
            vectors: Vectors of the sources ``[N, M, V', 2]``, or ``None`` without input vectors.

        Returns:
            Gains of directions ``[N, H, M, V]``, and vectors ``[N, H, 2 M V]`` or ``None``.
        """
        heads, _, channels = self.shape
        gain = self.lin_direction(x).unflatten(1, self.shape)
        if self.lin_vector is None:
            return gain, None
        propagated = self.lin_vector(vectors).unflatten(2, (heads, channels))
        return gain, propagated.transpose(1, 2).flatten(2)

    def aggregate_directions(
        self, weight: Tensor, harmonics: Tensor, gain: Tensor, graph: EdgeGraph, backend: str
    ) -> Tensor:
        """Sum the directions of the neighbours over edges.

        Args:
            weight: Weights of the edges ``[E, H]``.
            harmonics: Circular harmonics of the directions ``[E, H, M, 2]``.
            gain: Factors of the sources, ``[N, H, M, V]``.
            graph: The edges.
            backend: See :func:`stofm_geo.ops.edge_sum`.

        Returns:
            Sums ``[N, H, 2 M V]``.
        """
        # Cosine and sine weight the same gains of a source.
        weighted = (weight[:, :, None, None] * harmonics).flatten(1).to(gain.dtype)
        doubled_gain = gain[:, :, :, None].expand(-1, -1, -1, 2, -1).flatten(1, 3)
        sums = edge_sum(weighted, doubled_gain, graph, backend=backend).unflatten(
            1, (*self.shape[:2], 2)
        )
        return sums.transpose(3, 4).flatten(2)

    def forward(
        self, out: Tensor, attended: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Update the scalars from the attended vectors, and the vectors.

        Args:
            out: Scalars of the layer, ``[N, out_channels]``.
            attended: Attended vectors ``[N, H, 2 M V]``.
            vectors: Vectors of the destinations ``[N, M, V', 2]``; ``None`` without input vectors.

        Returns:
            Scalars ``[N, out_channels]``, and vectors ``[N, M, V'', 2]`` with ``V'' = H V`` (``V``
            without ``concat``), or ``None`` without ``out_vectors``.
        """
        _, orders, channels = self.shape
        attended = attended.unflatten(2, (orders, channels, 2))
        a = attended.transpose(1, 2).flatten(2, 3) if self.concat else attended.mean(dim=1)
        if self.lin_root is not None:
            a = a + self.lin_root(vectors)
        first, second = self.lin_pair(a).chunk(2, dim=2)
        invariants = [_norm(a), (first * second).sum(-1)]
        if not self.reflections:
            invariants.append(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])
        out = out + self.lin_invariant(torch.cat(invariants, dim=2).flatten(1))
        if self.lin_gate is None:
            return out, None
        return out, a * self.lin_gate(out).sigmoid().view(*a.shape[:3], 1)


class _PerOrder(nn.Module):
    """Linear map of vector channels per order, ``[N, M, V, 2] -> [N, M, W, 2]``."""

    def __init__(self, in_channels: int, out_channels: int, max_order: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_order, out_channels, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, vectors: Tensor) -> Tensor:
        # Orders first: products of large matrices instead of one small matrix per node.
        return (
            (self.weight @ vectors.permute(1, 2, 0, 3).flatten(2))
            .unflatten(2, (vectors.size(0), 2))
            .permute(2, 0, 1, 3)
        )


def _norm(vectors: Tensor) -> Tensor:
    """Return lengths, with gradient 0 (not NaN) where they are 0."""
    square = vectors.square().sum(-1)
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1).sqrt(), 0)
