"""The layer: multi-head attention over edges that knows how far and where neighbours are."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from e3nn import o3
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, OptTensor

from stofm_geo.nn.adjacency import graph_of, with_values
from stofm_geo.nn.geometry import EdgeGeometry
from stofm_geo.nn.irreps import planar_irreps
from stofm_geo.nn.radial import GaussianRadial
from stofm_geo.nn.vectors import VectorChannels
from stofm_geo.ops import EdgeGraph, edge_attention, edge_sum


class SE2TransformerConv(MessagePassing):
    r"""The attention of SToFM (`arXiv 2507.11588 <https://arxiv.org/abs/2507.11588>`_) over edges.

    .. math::
        a_{ji} = \frac{(W_q x_i) \cdot (W_k x_j + W_e e_{ji})}{\sqrt{C}}
        + b(\lVert p_j - p_i \rVert) + s_{ji}, \qquad
        x'_i = W_r x_i + \Big\Vert_h \sum_{j \to i} \operatorname{softmax}_j(a^h_{ji})
        \, (W_v x_j + W_e e_{ji})

    with a radial bias :math:`b` and the pair state :math:`s` (the logits :math:`a` of a layer
    before). Turning or shifting the positions changes nothing. Without positions, it is PyG's
    ``TransformerConv``, and takes its state dict.

    With ``vector_channels``, the directions of the neighbours count too: messages carry *vectors*
    of circular order 1 to ``max_order``, which turn with the positions, and their invariants flow
    into :math:`x'` (:class:`~stofm_geo.nn.vectors.VectorChannels`). Cross products among them tell
    a tissue from its mirror image, unless ``reflections`` (it takes two vectors an order: a vector
    has no cross product with itself).

    Args:
        in_channels: Size of the node features, or of those of source and destination; -1 to read
            it off the first input.
        out_channels: ``C``, output features a head.
        heads: ``H`` (default 1).
        concat: Heads side by side (default), else their mean.
        dropout: Share of the attention weights dropped in training (default 0).
        edge_dim: Size of the edge features (default: none).
        bias: Whether the linear maps have one (default).
        root_weight: Whether :math:`W_r x_i` is added (default).
        radial: Makes the radial functions, from their number: :class:`GaussianRadial` (default),
            ``functools.partial(SoftOneHotRadial, cutoff=5.0)``, or any module ``[E] -> [E, n]``
            (one with a method ``log_envelope`` fades out edges, too). ``None``: distances do not
            count.
        vector_channels: ``V``, vectors a head and order (default 0: none).
        max_order: ``M``, highest circular order (default 2).
        in_vector_channels: Vectors an order that come in (default 0).
        out_vectors: Whether ``forward`` returns vectors, too (default: their invariants only).
        reflections: Whether a mirror image is the same, that is E(2) and not SE(2) (default no).
        tolerance: On 10 000 edges or more, a :class:`GaussianRadial` is read from a table, to this
            share of the range of its values (default 1e-5); ``None``: always exact.

    Shapes:
        - ``x`` ``[N, in_channels]`` (or a pair of them), ``edge_index`` ``[2, E]``, ``pos``
          ``[N, 2]`` (or a pair), ``edge_attr`` ``[E, edge_dim]``, ``vectors``
          ``[N, M, in_vector_channels, 2]`` (or a pair), ``pair`` ``[E, H]``
        - output ``[N, H C]`` (``[N, C]`` without ``concat``), vectors ``[N, M, H V, 2]``
          (``[N, M, V, 2]``)

    Raises:
        ValueError: Sizes below 1 or out of range, or vector options without ``vector_channels``.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        *,
        concat: bool = True,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        radial: Callable[[int], nn.Module] | None = GaussianRadial,
        vector_channels: int = 0,
        max_order: int = 2,
        in_vector_channels: int = 0,
        out_vectors: bool = False,
        reflections: bool = False,
        tolerance: float | None = 1e-5,
    ) -> None:
        super().__init__(aggr="add", node_dim=0)
        for name, size, least in (
            ("out_channels", out_channels, 1),
            ("heads", heads, 1),
            ("vector_channels", vector_channels, 0),
            ("in_vector_channels", in_vector_channels, 0),
            ("edge_dim", 1 if edge_dim is None else edge_dim, 1),
        ):
            if size < least:
                raise ValueError(f"{name} must be {least} or more; found {size}")
        if (in_vector_channels or out_vectors) and not vector_channels:
            raise ValueError("in_vector_channels and out_vectors need vector_channels of 1 or more")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.dropout = dropout
        self.edge_dim = edge_dim
        self.in_vector_channels = in_vector_channels
        self.vector_channels = vector_channels
        self.max_order = max_order if vector_channels else 0
        self.out_vectors = out_vectors
        self.fuse = True
        source, own = (in_channels,) * 2 if isinstance(in_channels, int) else in_channels
        width = heads * out_channels
        self.lin_key = Linear(source, width, bias=bias)
        self.lin_query = Linear(own, width, bias=bias)
        self.lin_value = Linear(source, width, bias=bias)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, width, bias=False)
        out_width = width if concat else out_channels
        self.lin_skip = Linear(own, out_width, bias=bias) if root_weight else None
        self.geometry = self.vectors = None
        if radial is not None or vector_channels:
            self.geometry = EdgeGeometry(
                heads, radial, max_order if vector_channels else None, tolerance
            )
        if vector_channels:
            self.vectors = VectorChannels(
                source,
                out_width,
                vector_channels,
                heads=heads,
                concat=concat,
                in_vector_channels=in_vector_channels,
                max_order=max_order,
                reflections=reflections,
                root_weight=root_weight,
                out_vectors=out_vectors,
            )

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        super().reset_parameters()
        for part in self.children():
            if part is not self.aggr_module:
                reset(part)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adj | EdgeGraph,
        pos: Tensor | tuple[Tensor, Tensor] | None = None,
        edge_attr: Tensor | None = None,
        vectors: Tensor | tuple[Tensor, Tensor] | None = None,
        pair: Tensor | None = None,
        return_pair: bool = False,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple:
        """Attend.

        Args:
            x: Node features, or those of sources and of destinations.
            edge_index: From source to destination: ``[2, E]`` int64, an ``EdgeIndex``, the
                transposed adjacency as a ``torch.sparse`` tensor or a ``SparseTensor``, or an
                :class:`~stofm_geo.ops.EdgeGraph` that several layers share.
            pos: Positions. Needed with ``radial`` or ``vector_channels``. A node with NaN has no
                place: its edges have neither length nor direction.
            edge_attr: Edge features (``[E]`` where ``edge_dim`` is 1).
            vectors: Vector features, where ``in_vector_channels``.
            pair: Pair state, added to the logits.
            return_pair: Whether to return the logits, the next pair state, too.
            return_attention_weights: If a bool, return ``(edge_index, weights [E, H])``, too.

        Returns:
            The new node features; with what else was asked for, a tuple in the order: features,
            vectors (``out_vectors``), pair state, attention weights.

        Raises:
            ValueError: Something is missing or of a shape that does not fit.
        """
        x, pos, vectors = _both(x), _both(pos), _both(vectors)
        graph, values = graph_of(edge_index, x[1].size(0), x[0].size(0))
        edges = graph.edge_index
        if edge_attr is None and self.edge_dim is not None:
            edge_attr = values
        if edge_attr is not None and edge_attr.dim() == 1:
            edge_attr = edge_attr[:, None]
        self._check(x, edges, pos, edge_attr, vectors, pair)

        q = self.lin_query(x[1]).unflatten(1, (self.heads, self.out_channels))
        k = self.lin_key(x[0]).unflatten(1, (self.heads, self.out_channels))
        v = self.lin_value(x[0]).unflatten(1, (self.heads, self.out_channels))
        bias, waves = pair, None
        if self.geometry is not None:
            bias, waves = self.geometry(pos, edges, self.lin_key.weight.dtype)
            bias = bias if pair is None else bias + pair
        if bias is None:
            bias = q.new_zeros(edges.size(1), self.heads)
        if edge_attr is not None:
            edge_attr = edge_attr.to(q.dtype)
            bias = bias + self._edge_logits(q, edges, edge_attr)
        u = None
        if self.vectors is not None:
            u, carried = self.vectors.values(x[0], vectors[0])
            v = v if carried is None else torch.cat([v, carried], dim=2)

        # Sums over the edges without a message an edge, unless someone looks at the messages.
        fused = self._may_fuse()
        width = v.size(2) if fused and not (self.training and self.dropout) else 0
        out, logits, lse = edge_attention(q, k, v[..., :width], bias, graph)
        alpha = weight = logits
        by_edges = not width or u is not None or edge_attr is not None
        if by_edges or isinstance(return_attention_weights, bool):
            alpha = (logits - lse.index_select(0, edges[1])).exp().to(v.dtype)
            weight = F.dropout(alpha, self.dropout, self.training)
        if fused and not width:
            out = edge_sum(weight, v, graph)
        if fused and self.vectors and waves is not None and u is not None:
            out = torch.cat([out, self.vectors.directed(weight, waves, u, graph)], dim=2)
        if not fused or edge_attr is not None:
            # propagate_type: (v: Tensor, u: OptTensor, alpha: Tensor, waves: OptTensor, edge_attr: OptTensor)  # noqa: E501
            rest = self.propagate(
                edges,
                size=(x[0].size(0), x[1].size(0)),
                v=v[..., :0] if fused else v,
                u=None if fused else u,
                alpha=weight,
                waves=None if fused else waves,
                edge_attr=edge_attr,
            )
            out = torch.cat([out, rest], dim=2)
        out, new_vectors = self._update(out, x[1], vectors[1])

        results: list = [out]
        if self.out_vectors:
            results.append(new_vectors)
        if return_pair:
            results.append(logits)
        if isinstance(return_attention_weights, bool):
            results.append(with_values(edge_index, alpha))
        return results[0] if len(results) == 1 else tuple(results)

    def message(
        self,
        v_j: Tensor,
        u_j: OptTensor,
        alpha: Tensor,
        waves: OptTensor,
        edge_attr: OptTensor,
    ) -> Tensor:
        """Values, directions and edge features, weighted; ``[E, H, ...]``."""
        parts = [v_j]
        if waves is not None:
            parts.append((waves[:, :, :, None] * u_j[..., None]).flatten(2))
        if edge_attr is not None:
            parts.append(edge_attr[:, None].expand(-1, self.heads, -1))
        return alpha[..., None] * torch.cat(parts, dim=2)

    def _may_fuse(self) -> bool:
        watched = self.explain or self._message_forward_hooks or self._message_forward_pre_hooks
        return self.fuse and not watched

    def _edge_logits(self, q: Tensor, edges: Tensor, edge_attr: Tensor) -> Tensor:
        # q . (W e) is (W^T q) . e: no tensor of edges x heads x channels.
        turned = torch.einsum("nhc,hcd->nhd", q, self._edge_weight(q.dtype))
        product = (turned.index_select(0, edges[1]) * edge_attr[:, None]).sum(-1)
        return product * self.out_channels**-0.5

    def _edge_weight(self, dtype: torch.dtype) -> Tensor:
        weight = self.lin_edge.weight  # type: ignore[union-attr]
        return weight.view(self.heads, self.out_channels, -1).to(dtype)

    def _update(
        self, out: Tensor, x: Tensor, vectors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Node features and vectors from all that was attended, ``[N, H, ...]``."""
        turning = 2 * self.max_order * self.vector_channels
        sizes = [self.out_channels, turning * (self.in_vector_channels > 0), turning]
        out, carried, directed, edge = out.split([*sizes, self.edge_dim or 0], dim=2)
        if self.edge_dim is not None:
            out = out + torch.einsum("nhd,hcd->nhc", edge, self._edge_weight(edge.dtype))
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if self.lin_skip is not None:
            out = out + self.lin_skip(x)
        if self.vectors is None:
            return out, None
        attended = directed if not self.in_vector_channels else directed + carried
        return self.vectors(out, attended, vectors)

    def _check(
        self,
        x: tuple,
        edges: Tensor,
        pos: tuple,
        edge_attr: Tensor | None,
        vectors: tuple,
        pair: Tensor | None,
    ) -> None:
        if self.geometry is not None and any(p is None for p in pos):
            raise ValueError(
                "pos is missing: this layer looks at distances or directions; hand in pos, or "
                "build it with radial=None and without vector_channels"
            )
        if self.geometry is not None and any(
            p.dim() != 2 or p.size(1) != 2 or p.size(0) != rows.size(0)
            for p, rows in zip(pos, x, strict=True)
        ):
            raise ValueError(f"pos must be [N, 2] for x {_shapes(x)}; found {_shapes(pos)}")
        if (edge_attr is None) != (self.edge_dim is None) or (
            edge_attr is not None
            and (edge_attr.size(0) != edges.size(1) or edge_attr.size(1) != self.edge_dim)
        ):
            raise ValueError(
                f"edge_attr must have {edges.size(1)} rows (edges) of edge_dim={self.edge_dim}; "
                f"found {_shapes([edge_attr])}"
            )
        shape = (self.max_order, self.in_vector_channels, 2) if self.in_vector_channels else None
        if any((None if v is None else v.shape[1:]) != shape for v in vectors):
            raise ValueError(
                f"vectors must be [N, *{shape}] (orders, channels, plane) for max_order="
                f"{self.max_order} and in_vector_channels={self.in_vector_channels}; "
                f"found {_shapes(vectors)}"
            )
        if pair is not None and pair.shape != (edges.size(1), self.heads):
            raise ValueError(
                f"pair must be [E, H] = [{edges.size(1)}, {self.heads}]; found {_shapes([pair])}"
            )

    @property
    def irreps_in(self) -> o3.Irreps:
        """e3nn's irreps of ``x`` and ``vectors`` (:func:`~stofm_geo.nn.from_irreps`)."""
        if not isinstance(self.in_channels, int) or self.in_channels < 0:
            raise ValueError(f"irreps_in of in_channels={self.in_channels} are not one thing")
        return planar_irreps(self.in_channels, self.in_vector_channels, self.max_order)

    @property
    def irreps_out(self) -> o3.Irreps:
        """e3nn's irreps of the output (:func:`~stofm_geo.nn.to_irreps`)."""
        heads = self.heads if self.concat else 1
        vectors = heads * self.vector_channels if self.out_vectors else 0
        return planar_irreps(heads * self.out_channels, vectors, self.max_order)

    def __repr__(self) -> str:
        vectors = f", vector_channels={self.vector_channels}" if self.vector_channels else ""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads}"
            f"{vectors})"
        )


def _both(value: Tensor | tuple | None) -> tuple:
    """The same for sources and destinations, unless told apart."""
    return value if isinstance(value, tuple | list) else (value, value)


def _shapes(tensors: Iterable[Tensor | None]) -> list:
    return [None if tensor is None else list(tensor.shape) for tensor in tensors]
