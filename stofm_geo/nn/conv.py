"""Multi-head attention over edges that depends on distances and directions."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter
from typing import Any

import torch
import torch.nn.functional as F
from e3nn import o3
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj, OptTensor

from stofm_geo._validation import check_fraction
from stofm_geo.nn import _validation as checks
from stofm_geo.nn.adjacency import attach_values, to_edge_graph
from stofm_geo.nn.aggregation import (
    Attended,
    AttentionInputs,
    aggregate,
    attention_weights,
    split_messages,
)
from stofm_geo.nn.geometry import EdgeGeometry
from stofm_geo.nn.irreps import planar_irreps
from stofm_geo.nn.radial import GaussianRadial
from stofm_geo.nn.vectors import VectorChannels
from stofm_geo.ops import EdgeGraph, edge_attention
from stofm_geo.ops.edge_attention import BACKENDS
from stofm_geo.ops.rotated_sum import rotate


class SE2TransformerConv(MessagePassing):
    r"""The attention of SToFM (`arXiv 2507.11588 <https://arxiv.org/abs/2507.11588>`_) over edges.

    .. math::
        a_{ji} = \frac{(W_q x_i) \cdot (W_k x_j + W_e e_{ji})}{\sqrt{C}}
        + b(\lVert p_j - p_i \rVert) + s_{ji}, \qquad
        x'_i = W_r x_i + \Big\Vert_h \sum_{j \to i} \operatorname{softmax}_j(a^h_{ji})
        \, (W_v x_j + W_e e_{ji})

    with a radial bias :math:`b` and the pair state :math:`s` (the logits :math:`a` of the previous
    layer). The output is invariant to rotations and translations of the positions. The layer is a
    drop-in replacement for PyG's ``TransformerConv``: the same arguments in the same order, and the
    same state dict where ``radial=None``.

    With ``vector_channels``, the output depends on the directions of the neighbours, too: messages
    carry *vectors* of circular order 1 to ``max_order``, which rotate with the positions, and their
    invariants are added to :math:`x'`; with ``in_vector_channels``, the vectors of a node attend to
    directions, too (:class:`~stofm_geo.nn.vectors.VectorChannels`). Cross products among them
    distinguish a tissue from its mirror image, unless ``reflections``. (This needs two vectors per
    order, since the cross product of a vector with itself is 0.)

    Messages are created only if they are observed, by hooks, explainers or overridden methods of a
    subclass; otherwise kernels sum over the edges. Gradients of any order are correct. Under
    ``torch.func`` transforms, forward-mode AD and ``torch.jit.trace``, the layer uses PyTorch's own
    operations; ``backend="reference"`` always does, which ONNX and AOTInductor need.
    ``torch.jit.script`` is not supported.

    A subclass may define ``message``, ``aggregate`` and ``update``, which take any of ``query``,
    ``key``, ``value``, ``directions`` and ``frame_vectors`` (of nodes: ``query_i``, ``key_j``,
    ...), ``alpha``, ``harmonics`` and ``edge_attr`` (of edges), and PyG's ``index``, ``ptr`` and so
    on.

    Args:
        in_channels: Size of the node features, or a pair of sizes of source and destination
            features; -1 to infer it from the first input.
        out_channels: ``C``, output features per head.
        heads: ``H`` (default 1).
        concat: Concatenate the heads (default), else average them.
        beta: Weigh :math:`W_r x_i` against the aggregated values by a learned gate :math:`\beta_i
            \in (0, 1)`, as ``TransformerConv`` does (default: add them).
        dropout: Dropout probability of the attention weights in training (default 0).
        edge_dim: Size of the edge features, -1 to infer it from the first input (default: none).
        bias: Whether the linear maps have a bias (default).
        root_weight: Whether :math:`W_r x_i` is added (default). Without it, ``lin_skip``, which
            ``TransformerConv`` has in any case, is frozen.
        radial: Constructor of the radial functions, given their number: :class:`GaussianRadial`
            (default), ``functools.partial(SoftOneHotRadial, cutoff=5.0)``, or of any module ``[E]
            -> [E, n]`` (a method ``log_envelope`` fades out edges, too). ``None``: no dependence on
            distances.
        vector_channels: ``V``, vectors per head and order (default 0: none).
        max_order: ``M``, highest circular order (default 2).
        in_vector_channels: Input vectors per order (default 0).
        out_vectors: Whether ``forward`` also returns vectors (default: only their invariants).
        reflections: Whether the output is invariant to reflections, that is E(2) instead of SE(2)
            (default no).
        tolerance: On 10 000 edges or more in single precision, a :class:`GaussianRadial` is
            interpolated in a table, with errors up to this fraction of the range of its values
            (default 1e-5). ``None``: always exact, as double precision is.
        backend: ``"auto"`` (default), or a name of :func:`stofm_geo.ops.available_backends`.
        **kwargs: Arguments of PyG's ``MessagePassing``. Only ``aggr="add"`` and
            ``flow="source_to_target"`` are supported.

    Shapes:
        - ``x`` ``[N, in_channels]`` (or a pair of them), ``edge_index`` ``[2, E]``, ``pos``
          ``[N, 2]`` (or a pair), ``edge_attr`` ``[E, edge_dim]``, ``vectors``
          ``[N, M, in_vector_channels, 2]`` (or a pair), ``pair`` ``[E, H]``
        - output ``[N, H C]`` (``[N, C]`` without ``concat``), vectors ``[N, M, H V, 2]``
          (``[N, M, V, 2]``)

    Raises:
        ValueError: Sizes out of range, vector options without ``vector_channels``, or options of
            ``MessagePassing`` that are not supported.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import SE2TransformerConv
        >>> x, pos = torch.randn(4, 16), torch.randn(4, 2)
        >>> edge_index = torch.tensor([[1, 2, 3, 0], [0, 0, 1, 2]])
        >>> conv = SE2TransformerConv(16, 8, heads=2)
        >>> out = conv(x, edge_index, pos=pos)
        >>> turned = pos @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # by 90 degrees
        >>> out.shape, torch.allclose(conv(x, edge_index, pos=turned), out, atol=1e-5)
        (torch.Size([4, 16]), True)
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        *,
        radial: Callable[[int], nn.Module] | None = GaussianRadial,
        vector_channels: int = 0,
        max_order: int = 2,
        in_vector_channels: int = 0,
        out_vectors: bool = False,
        reflections: bool = False,
        tolerance: float | None = 1e-5,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        checks.check_message_passing(kwargs)
        source, destination = checks.check_channels(in_channels)
        check_fraction("dropout", dropout)
        super().__init__(**{**kwargs, "aggr": "add", "node_dim": 0})
        if type(self).forward is SE2TransformerConv.forward:
            of_nodes = ("query", "key", "value", "directions", "frame_vectors")
            provided = (*of_nodes, "alpha", "harmonics", "edge_attr")
            checks.check_message_arguments(self.inspector, provided, self.special_args)
        checks.check_sizes(
            out_channels=(out_channels, 1),
            heads=(heads, 1),
            vector_channels=(vector_channels, 0),
            in_vector_channels=(in_vector_channels, 0),
            edge_dim=(-1 if edge_dim is None else edge_dim, -1),
            max_order=(max_order if vector_channels else 1, 1),
        )
        if (in_vector_channels or out_vectors) and not vector_channels:
            raise ValueError("in_vector_channels and out_vectors need vector_channels of 1 or more")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.beta = beta and root_weight
        self.dropout = dropout
        self.edge_dim = edge_dim
        self.root_weight = root_weight
        self.in_vector_channels = in_vector_channels
        self.vector_channels = vector_channels
        self.max_order = max_order if vector_channels else 0
        self.out_vectors = out_vectors
        self.backend = checks.check_choice("backend", backend, ("auto", *BACKENDS))
        self.fuse = True
        width = heads * out_channels
        out_width = width if concat else out_channels
        self.lin_key = Linear(source, width, bias=bias)
        self.lin_query = Linear(destination, width, bias=bias)
        self.lin_value = Linear(source, width, bias=bias)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, width, bias=False)
        # An unused layer must not advance the random state.
        with torch.random.fork_rng(devices=(), enabled=not root_weight):
            self.lin_skip = Linear(destination, out_width, bias=bias)
        for parameter in self.lin_skip.parameters():
            parameter.requires_grad = root_weight
        self.lin_beta = Linear(3 * out_width, 1, bias=False) if self.beta else None
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
        """Reset all learnable parameters."""
        super().reset_parameters()
        for module in self.children():
            if module is not self.aggr_module:
                reset(module)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adj | EdgeGraph,
        edge_attr: OptTensor = None,
        pos: Tensor | tuple[Tensor, Tensor] | None = None,
        vectors: Tensor | tuple[Tensor, Tensor] | None = None,
        pair: OptTensor = None,
        return_pair: bool = False,
        return_attention_weights: bool | None = None,
    ) -> Tensor | tuple:
        """Compute the attention.

        Args:
            x: Node features, or a pair of those of sources and destinations.
            edge_index: From source to destination: ``[2, E]`` int64, an ``EdgeIndex``, the
                transposed adjacency matrix as a ``torch.sparse`` tensor or a ``SparseTensor``, or
                an :class:`~stofm_geo.ops.EdgeGraph` that several layers share.
            edge_attr: Edge features (``[E]`` where ``edge_dim`` is 1).
            pos: Positions; needed with ``radial`` or ``vector_channels``. Edges of a node with NaN
                have length and direction 0.
            vectors: Vector features, with ``in_vector_channels``.
            pair: Pair state, added to the logits.
            return_pair: Whether to also return the logits, the next pair state.
            return_attention_weights: If a bool, also return ``(edge_index, weights [E, H])``.

        Returns:
            The new node features; or a tuple of features, vectors (``out_vectors``), pair state and
            attention weights, those that were requested.

        Raises:
            ValueError: An input is missing or has a wrong shape.
            IndexError: An edge has the index of a node that does not exist.
        """
        x, pos, vectors = as_pair(x), as_pair(pos), as_pair(vectors)
        options = ("aggr", "flow", "node_dim", "decomposed_layers")
        checks.check_message_passing({name: getattr(self, name) for name in options})
        channels = checks.check_channels(self.in_channels)
        checks.check_nodes(x, channels, self.lin_key.weight.dtype)
        graph, values = to_edge_graph(edge_index, x[1].size(0), x[0].size(0))
        edge_attr = values if edge_attr is None and self.edge_dim is not None else edge_attr
        if isinstance(edge_attr, Tensor) and edge_attr.dim() == 1:
            edge_attr = edge_attr[:, None]
        if self.lin_skip is not None and not self.root_weight and is_lazy(self.lin_skip.weight):
            self.lin_skip(x[1][:0])  # initialises its size, although it is not used
        edges = graph.edge_index.size(1)
        # lin_edge may be replaced by an adapter without in_channels, or be lazy (-1).
        edge_dim = getattr(self.lin_edge, "in_channels", self.edge_dim)
        checks.check_edge_attr(edge_attr, edges, edge_dim)
        if self.geometry is not None:
            checks.check_positions(pos, x)
        checks.check_vectors(
            vectors, self.max_order, self.in_vector_channels, self.lin_key.weight.dtype
        )
        checks.check_pair(pair, edges, self.heads)

        query, key, value = (
            linear(x[side]).unflatten(1, (self.heads, self.out_channels))
            for linear, side in ((self.lin_query, 1), (self.lin_key, 0), (self.lin_value, 0))
        )
        edge_weight = None
        if self.lin_edge is not None and edge_attr is not None:
            # Call the module, so that its hooks (pruning, adapters) run.
            eye = torch.eye(edge_attr.size(1), dtype=query.dtype, device=query.device)
            edge_weight = self.lin_edge(eye).t().unflatten(0, (self.heads, self.out_channels))
            edge_attr = edge_attr.to(query.dtype)
        bias, radial, harmonics = self._bias(
            query, graph.edge_index, pos, vectors[1], edge_attr, edge_weight, pair
        )
        directions = frame_vectors = None
        if self.vectors is not None:
            directions, frame_vectors, passed_on = self.vectors.values(x[0], vectors[0])
            value = value if passed_on is None else torch.cat([value, passed_on], dim=2)

        inputs = AttentionInputs(
            *(query, key, value, bias, graph),
            *(radial, harmonics, directions, frame_vectors, edge_attr),
        )
        if self._messages_are_observed():
            attended, logits, lse = self._by_messages(inputs)
        else:
            dropout = self.dropout if self.training else 0.0
            attended, logits, lse = aggregate(inputs, dropout, self.backend)
        out, new_vectors = self._update(attended, x[1], vectors[1], edge_weight)

        results: list = [out]
        if self.out_vectors:
            results.append(new_vectors)
        if return_pair:
            results.append(logits)
        if isinstance(return_attention_weights, bool):
            alpha = attention_weights(logits, lse, graph, value.dtype)
            results.append(attach_values(edge_index, alpha))
        return results[0] if len(results) == 1 else tuple(results)

    def message(
        self,
        value_j: Tensor,
        directions_j: OptTensor,
        frame_vectors_j: OptTensor,
        alpha: Tensor,
        harmonics: OptTensor,
        edge_attr: OptTensor,
    ) -> Tensor:
        """Weigh values, vectors and edge features by attention, ``[E, H, ...]``.

        Args:
            value_j: ``[E, H, D]``.
            directions_j: Vectors along the edges, ``[E, M, 1, V, H]``.
            frame_vectors_j: Vectors to rotate into the frames of the edges, ``[E, M, 2, V, H]``.
            alpha: Attention weights ``[E, H]``.
            harmonics: Circular harmonics times radial weights, ``[E, M, 2, H]``.
            edge_attr: ``[E, edge_dim]``.
        """
        parts = [value_j]
        if harmonics is not None:
            cos, sin = harmonics[:, :, :, None].unbind(2)
            rotated = [rotate(cos, sin, directions_j)]
            if frame_vectors_j is not None:
                rotated.append(rotate(cos, -sin, frame_vectors_j))
            parts += [part.movedim(4, 1).flatten(2).to(value_j.dtype) for part in rotated]
        if edge_attr is not None:
            parts.append(edge_attr[:, None].expand(-1, self.heads, -1))
        return alpha[..., None] * torch.cat(parts, dim=2)

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        """Do not generate a ``propagate`` method for TorchScript.

        A subclass would inherit that of this class, which ignores overridden methods and the masks
        of explainers.
        """

    def _collect(self, *args: Any) -> dict[str, Any]:
        """Omit arguments that are not provided, so that the default of a method is used."""
        arguments = super()._collect(*args)
        return {name: value for name, value in arguments.items() if value is not Parameter.empty}

    def _messages_are_observed(self) -> bool:
        """Return whether messages must be created, since they are observed or overridden."""
        hooks = (
            self._propagate_forward_pre_hooks, self._propagate_forward_hooks,
            self._message_forward_pre_hooks, self._message_forward_hooks,
            self._aggregate_forward_pre_hooks, self._aggregate_forward_hooks,
        )  # fmt: skip
        overridden = any(
            name in vars(self) or getattr(type(self), name) is not getattr(SE2TransformerConv, name)
            for name in ("propagate", "message", "aggregate", "update")
        )
        return bool(not self.fuse or self.explain or overridden or any(hooks))

    def _by_messages(self, inputs: AttentionInputs) -> tuple[Attended, Tensor, Tensor]:
        """Aggregate as :func:`aggregate` does, through ``propagate``."""
        query, key, value, bias, graph, radial, harmonics, *vectors, edge_attr = inputs
        _, logits, lse = edge_attention(
            query, key, value[..., :0], bias, graph, backend=self.backend
        )
        alpha = attention_weights(logits, lse, graph, value.dtype)
        if radial is not None and harmonics is not None:
            harmonics = radial[:, :, None] * harmonics[..., None]
        out = self.propagate(
            graph.edge_index,
            size=(key.size(0), query.size(0)),
            query=query,
            key=key,
            value=value,
            directions=vectors[0],
            frame_vectors=vectors[1],
            alpha=F.dropout(alpha, self.dropout, self.training),
            harmonics=harmonics,
            edge_attr=edge_attr,
        )
        return split_messages(out, inputs), logits, lse

    def _bias(
        self,
        query: Tensor,
        edges: Tensor,
        pos: tuple,
        vectors: OptTensor,
        edge_attr: OptTensor,
        edge_weight: OptTensor,
        pair: OptTensor,
    ) -> tuple[Tensor, OptTensor, OptTensor]:
        """Return the sum of all biases of the logits ``[E, H]``, and those of the geometry."""
        terms = [] if pair is None else [pair]
        radial = harmonics = None
        if self.geometry is not None:
            bias, radial, harmonics = self.geometry(pos, edges, query.dtype)
            terms.append(bias)
            if self.vectors is not None and vectors is not None:
                terms.append(self.vectors.logits(vectors, radial, harmonics, edges))
        if edge_attr is not None:
            # q . (W e) is (W^T q) . e: no tensor of edges x heads x channels.
            edge_query = torch.einsum("nhc,hcd->nhd", query, edge_weight)
            product = (edge_query.index_select(0, edges[1]) * edge_attr[:, None]).sum(-1)
            terms.append(product * self.out_channels**-0.5)
        if not terms:
            terms = [query.new_zeros(edges.size(1), self.heads)]
        return sum(terms[1:], start=terms[0]), radial, harmonics

    def _update(
        self, attended: Attended, x: Tensor, vectors: OptTensor, edge_weight: OptTensor
    ) -> tuple[Tensor, OptTensor]:
        """Return node features and vectors from the aggregated messages."""
        value, directions, frames, edge_attr = attended
        # Not split(), whose results cannot be changed in place, as by nn.ReLU(inplace=True).
        out, passed_on = value[..., : self.out_channels], value[..., self.out_channels :]
        if edge_weight is not None and edge_attr is not None:
            out = out + torch.einsum("nhd,hcd->nhc", edge_attr, edge_weight)
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if self.root_weight:
            root = self.lin_skip(x)
            if self.lin_beta is None:
                out = out + root
            else:
                beta = self.lin_beta(torch.cat([out, root, out - root], dim=1)).sigmoid()
                out = beta * root + (1 - beta) * out
        if self.vectors is None or directions is None:
            return out, None
        backend = "reference" if self.backend == "reference" else "auto"
        return self.vectors(out, directions, frames, passed_on, vectors, backend)

    @property
    def irreps_in(self) -> o3.Irreps:
        """Return the e3nn irreps of ``x`` and ``vectors`` (:func:`~stofm_geo.nn.from_irreps`)."""
        if not isinstance(self.in_channels, int) or self.in_channels < 0:
            raise ValueError(f"irreps_in is undefined for in_channels={self.in_channels}")
        return planar_irreps(self.in_channels, self.in_vector_channels, self.max_order)

    @property
    def irreps_out(self) -> o3.Irreps:
        """Return the e3nn irreps of the output (:func:`~stofm_geo.nn.to_irreps`)."""
        heads = self.heads if self.concat else 1
        vectors = heads * self.vector_channels if self.out_vectors else 0
        return planar_irreps(heads * self.out_channels, vectors, self.max_order)

    def __prepare_scriptable__(self) -> SE2TransformerConv:
        """Raise for ``torch.jit.script``, which calls this method of each module."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script; use torch.compile, "
            "torch.export or torch.jit.trace"
        )

    def __repr__(self) -> str:
        vectors = f", vector_channels={self.vector_channels}" if self.vector_channels else ""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads}"
            f"{vectors})"
        )


def as_pair(value: Tensor | tuple | None) -> tuple:
    """Return a pair unchanged, and a tensor as a pair with itself."""
    return value if isinstance(value, tuple | list) else (value, value)
