"""Equivariant vector features of the attention layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from stofm_geo.ops.vector_invariants import scale_vectors, vector_invariants


class VectorChannels(nn.Module):
    r"""Vector features of circular order :math:`m = 1 \ldots M` under the attention of a layer.

    A rotation of the plane by :math:`\phi` rotates a vector of order :math:`m` by :math:`m\phi`. A
    message to node :math:`i` is a vector, built from the direction of its neighbour and the
    neighbour's vectors, and, with input vectors, those of the neighbour in the frame of the edge,
    which are invariant,

    .. math::
        \vec{m}_{ji} = w_m(d_{ji}) \, (\cos m\theta_{ji}, \sin m\theta_{ji}) \, (W_u x_j)
        + W_v \vec{v}_j, \qquad
        s_{ji} = w_m(d_{ji}) \, R(-m\theta_{ji}) \, W_s \vec{v}_j

    Linear maps of the following invariants are added to the scalars: the lengths of the attended
    sums of :math:`\vec m` (with a linear map of the node's own vectors); inner products and, unless
    ``reflections``, cross products of two linear maps of these sums, which are first scaled to a
    root mean square of about 1 (after PaiNN, arXiv 2102.03150, which has lengths and inner
    products); and the attended sums of :math:`s`, with ``reflections`` their first component only.
    The output vectors are the scaled sums, gated by the new scalars. The node's own vectors attend
    to directions by the logits

    .. math::
        \sum_m w_m(d_{ji}) \, (\cos m\theta_{ji}, \sin m\theta_{ji}) \cdot W_q \vec{v}_i

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
        self.shape = (max_order, vector_channels, heads)
        self.concat = concat
        self.reflections = reflections
        width = heads * vector_channels if concat else vector_channels
        self.lin_direction = Linear(in_channels, math.prod(self.shape))
        self.lin_vector: nn.Module | None = None
        self.lin_frame: nn.Module | None = None
        self.lin_root: nn.Module | None = None
        self.lin_query: nn.Module | None = None
        self.lin_gate: nn.Module | None = None
        if in_vector_channels:
            self.lin_vector = _PerOrder(in_vector_channels, heads * vector_channels, max_order)
            self.lin_frame = _PerOrder(in_vector_channels, heads * vector_channels, max_order)
            self.lin_query = _PerOrder(in_vector_channels, heads, max_order)
        if in_vector_channels and root_weight:
            self.lin_root = _PerOrder(in_vector_channels, width, max_order)
        self.lin_pair = _PerOrder(width, 2 * width, max_order)
        kinds = 2 if reflections else 3
        if in_vector_channels:
            kinds += 1 if reflections else 2
        self.lin_invariant = Linear(kinds * max_order * width, out_channels, bias=False)
        if out_vectors:
            self.lin_gate = Linear(out_channels, max_order * width)

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]

    def values(
        self, x: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute the contributions of the sources.

        Args:
            x: Scalars of the sources ``[N, C]``.
            vectors: Vectors of the sources ``[N, M, V', 2]``, or ``None`` without input vectors.

        Returns:
            Vectors along the edges ``[N, M, 1, V, H]``; and, or ``None`` without input vectors,
            vectors to rotate into the frames of the edges, ``[N, M, 2, V, H]``, and vectors that
            are passed on, ``[N, H, 2 M V]``.
        """
        directions = self.lin_direction(x).unflatten(1, self.shape)[:, :, None]
        if vectors is None or self.lin_frame is None or self.lin_vector is None:
            return directions, None, None
        v = _by_order(vectors)
        in_frame, passed_on = (
            linear(v).unflatten(3, self.shape[1:]) for linear in (self.lin_frame, self.lin_vector)
        )
        return directions, in_frame.transpose(0, 1), passed_on.permute(1, 4, 0, 2, 3).flatten(2)

    def logits(
        self, vectors: Tensor, radial: Tensor, harmonics: Tensor, edge_index: Tensor
    ) -> Tensor:
        """Compute the logits of the directions, given the vectors of the destinations.

        Args:
            vectors: Vectors of the destinations ``[N, M, V', 2]``.
            radial: Weights of the directions ``[E, M, H]``.
            harmonics: Circular harmonics of the directions ``[E, M, 2]``.
            edge_index: ``[2, E]``.

        Returns:
            Logits ``[E, H]``.
        """
        assert self.lin_query is not None
        query = self.lin_query(_by_order(vectors)).transpose(0, 1)  # [N, M, 2, H]
        query = query.contiguous().index_select(0, edge_index[1])
        return ((query * harmonics[..., None]).sum(2) * radial).sum(1)

    def forward(
        self,
        out: Tensor,
        directions: Tensor,
        in_frame: Tensor | None,
        passed_on: Tensor,
        vectors: Tensor | None,
        backend: str = "auto",
    ) -> tuple[Tensor, Tensor | None]:
        """Update the scalars from the attended vectors, and the vectors.

        Args:
            out: Scalars of the layer, ``[N, out_channels]``.
            directions: Attended vectors along the edges, ``[N, M, 2, V, H]``.
            in_frame: Attended vectors in the frames of the edges, ``[N, M, 2, V, H]``; ``None``
                without input vectors, as the following.
            passed_on: Attended vectors that are passed on, ``[N, H, 2 M V]``.
            vectors: Vectors of the destinations ``[N, M, V', 2]``.
            backend: Backend of the invariants, ``"auto"`` or ``"reference"``.

        Returns:
            Scalars ``[N, out_channels]``, and vectors ``[N, M, V'', 2]`` with ``V'' = H V`` (``V``
            without ``concat``), or ``None`` without ``out_vectors``.
        """
        sums = self._join_heads(directions)
        if in_frame is not None and vectors is not None:
            passed_on = passed_on.unflatten(2, (self.shape[0], 2, -1)).permute(0, 2, 3, 4, 1)
            sums = sums + self._join_heads(passed_on)
            if self.lin_root is not None:
                sums = sums + self.lin_root(_by_order(vectors)).transpose(0, 1)
        scaled, lengths = scale_vectors(sums, backend=backend)
        pairs, cross = self.lin_pair(scaled), not self.reflections
        invariants = vector_invariants(lengths, pairs, cross=cross, backend=backend)
        if in_frame is not None:
            # Across the edge, the component changes sign under reflection.
            along = self._join_heads(in_frame)[:, :, : 1 if self.reflections else 2]
            invariants = torch.cat([invariants, along], dim=2)
        out = out + self.lin_invariant(invariants.flatten(1))
        if self.lin_gate is None:
            return out, None
        gate = self.lin_gate(out).sigmoid().unflatten(1, (self.shape[0], 1, -1))
        return out, (scaled.transpose(0, 1) * gate).transpose(2, 3)

    def _join_heads(self, vectors: Tensor) -> Tensor:
        """Return vectors ``[N, M, 2, V, H]`` as ``[N, M, 2, V H]``, or their mean over heads."""
        return vectors.flatten(3) if self.concat else vectors.mean(dim=4)


class _PerOrder(nn.Module):
    """Linear map of vector channels per order, ``[M, N, 2, V] -> [M, N, 2, W]``."""

    def __init__(self, in_channels: int, out_channels: int, max_order: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_order, out_channels, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, vectors: Tensor) -> Tensor:
        flat = torch.bmm(vectors.flatten(1, 2), self.weight.transpose(1, 2))
        return flat.unflatten(1, (-1, 2))


def _by_order(vectors: Tensor) -> Tensor:
    """Return vectors ``[N, M, V, 2]`` by order, ``[M, N, 2, V]``."""
    return vectors.permute(1, 0, 3, 2).contiguous()
