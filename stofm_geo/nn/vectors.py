"""Equivariant vector features of the attention layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear

from stofm_geo.ops.edge_sum import compute_dtype

_SMALL = 1e-2  # mean square length below which vectors are not scaled to 1


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
        self.shape = (heads, max_order, vector_channels)
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

    @property
    def size(self) -> int:
        """Return the number of values that :meth:`forward` takes per node and head."""
        _, orders, channels = self.shape
        return 2 * orders * channels * (1 if self.lin_vector is None else 3)

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
            Vectors to rotate into the frames of the edges, ``[N, H, M, 2, V or 2 V]``, and vectors
            that are passed on, ``[N, H, 2 M V]`` or ``None``.
        """
        gain = self.lin_direction(x).unflatten(1, self.shape)[:, :, :, None]
        parts = [torch.cat([gain, torch.zeros_like(gain)], dim=3)]
        if vectors is None or self.lin_frame is None or self.lin_vector is None:
            return parts[0], None
        v = _components(vectors)
        in_frame, passed_on = (
            linear(v).unflatten(3, (self.shape[0], -1))
            for linear in (self.lin_frame, self.lin_vector)
        )
        parts.append(in_frame.permute(2, 3, 1, 0, 4))
        return torch.cat(parts, dim=4), passed_on.permute(2, 3, 0, 1, 4).flatten(2)

    def logits(
        self, vectors: Tensor, radial: Tensor, harmonics: Tensor, edge_index: Tensor
    ) -> Tensor:
        """Compute the logits of the directions, given the vectors of the destinations.

        Args:
            vectors: Vectors of the destinations ``[N, M, V', 2]``.
            radial: Weights of the directions ``[E, H, M]``.
            harmonics: Circular harmonics of the directions ``[E, M, 2]``.
            edge_index: ``[2, E]``.

        Returns:
            Logits ``[E, H]``.
        """
        assert self.lin_query is not None
        query = self.lin_query(_components(vectors)).permute(2, 3, 1, 0)  # [N, H, M, 2]
        query = query.contiguous().index_select(0, edge_index[1])
        return ((query * harmonics[:, None]).sum(3) * radial).sum(2)

    def forward(
        self, out: Tensor, attended: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Update the scalars from the attended vectors, and the vectors.

        Args:
            out: Scalars of the layer, ``[N, out_channels]``.
            attended: Attended vectors that are passed on, and those in the frames of the edges,
                ``[N, H, size]``.
            vectors: Vectors of the destinations ``[N, M, V', 2]``; ``None`` without input vectors.

        Returns:
            Scalars ``[N, out_channels]``, and vectors ``[N, M, V'', 2]`` with ``V'' = H V`` (``V``
            without ``concat``), or ``None`` without ``out_vectors``.
        """
        sums, in_frame = self._split(attended)
        if self.lin_root is not None and vectors is not None:
            sums = sums + self.lin_root(_components(vectors))
        length = _norm(*sums.unbind(0))
        sums = _normalize(sums)
        (x1, y1), (x2, y2) = (part.unbind(0) for part in self.lin_pair(sums).chunk(2, dim=3))
        invariants = [length, x1 * x2 + y1 * y2]
        if not self.reflections:
            invariants.append(x1 * y2 - y1 * x2)
        if in_frame is not None:
            # Across the edge, the component changes sign under reflection.
            invariants += in_frame.unbind(0)[: 1 if self.reflections else 2]
        flat = torch.cat(invariants, dim=2).transpose(0, 1).flatten(1)
        out = out + self.lin_invariant(flat)
        if self.lin_gate is None:
            return out, None
        gate = self.lin_gate(out).sigmoid().unflatten(1, (self.shape[1], -1)).transpose(0, 1)
        return out, (sums * gate).permute(2, 1, 3, 0)

    def _split(self, attended: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return attended vectors, and those in the frames of the edges, by component.

        Args:
            attended: See :meth:`forward`.

        Returns:
            Two tensors ``[2, M, N, V'']``; ``None`` for the second without input vectors.
        """
        _, orders, channels = self.shape
        size = 0 if self.lin_vector is None else 2 * orders * channels
        passed_on, frames = attended.split([size, self.size - size], dim=2)
        frames = frames.unflatten(2, (orders, 2, -1)).permute(3, 2, 0, 1, 4)
        in_frame = None
        directions, *rest = frames.split(channels, dim=4)
        x, y = directions.unbind(0)
        # In the frame of an edge at an angle, a fixed vector is at minus that angle.
        sums = torch.stack([x, -y])
        if size:
            sums = sums + passed_on.unflatten(2, (2, orders, channels)).permute(2, 3, 0, 1, 4)
            in_frame = self._join_heads(rest[0])
        return self._join_heads(sums), in_frame

    def _join_heads(self, vectors: Tensor) -> Tensor:
        """Return vectors ``[2, M, N, H, V]`` as ``[2, M, N, H V]``, or their mean over heads."""
        return vectors.flatten(3) if self.concat else vectors.mean(dim=3)


class _PerOrder(nn.Module):
    """Linear map of vector channels per order, ``[2, M, N, V] -> [2, M, N, W]``."""

    def __init__(self, in_channels: int, out_channels: int, max_order: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_order, out_channels, in_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors @ self.weight.transpose(1, 2)


def _components(vectors: Tensor) -> Tensor:
    """Return vectors ``[N, M, V, 2]`` by component, ``[2, M, N, V]``."""
    return vectors.permute(3, 1, 0, 2).contiguous()


def _normalize(vectors: Tensor) -> Tensor:
    """Scale vectors ``[2, M, N, V]`` to a root mean square of about 1 over the channels."""
    # Squares of half precision overflow from 256 on.
    square = vectors.to(compute_dtype(vectors.dtype)).square().sum(0).mean(dim=2, keepdim=True)
    return vectors * torch.rsqrt(square + _SMALL).to(vectors.dtype)


def _norm(x: Tensor, y: Tensor) -> Tensor:
    """Return lengths, with gradient 0 (not NaN) where they are 0."""
    wide = compute_dtype(x.dtype)
    square = x.to(wide).square() + y.to(wide).square()
    nonzero = square > 0
    return torch.where(nonzero, torch.where(nonzero, square, 1).sqrt(), 0).to(x.dtype)
