"""The SE(2) Transformer: a stack of attention layers over the edges of a tissue graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset
from torch_geometric.typing import Adj

from stofm_geo.nn._validation import check_nodes
from stofm_geo.nn.adjacency import to_edge_graph
from stofm_geo.nn.conv import SE2TransformerConv
from stofm_geo.nn.radial import GaussianRadial
from stofm_geo.ops import EdgeGraph
from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.edge_attention.reference import softmax


class SE2Output(NamedTuple):
    """Output of a :class:`SE2Transformer`.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import SE2Transformer
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> out = SE2Transformer(16, heads=4)(torch.randn(3, 16), edge_index, torch.randn(3, 2))
        >>> out.x.shape, out.vectors, out.pair.shape
        (torch.Size([3, 16]), None, torch.Size([3, 4]))
    """

    x: Tensor
    """Node features ``[N, channels]``."""
    vectors: Tensor | None
    """Vectors ``[N, M, vector_channels, 2]``; ``None`` without ``out_vectors``."""
    pair: Tensor
    """The last pair state, ``[E, heads]``."""


class SE2Transformer(nn.Module):
    """A stack of attention blocks over edges, which pass on a pair state.

    A block is attention, then a feed-forward network, each with a residual connection and layer
    normalisation before (``norm="pre"``, which trains from scratch without warm-up) or after
    (``"post"``, as published). Distances enter by the radial bias of the first block; with vector
    channels, directions enter in every block.

    Args:
        channels: Size of the node features, in and out; a multiple of ``heads``.
        num_layers: Number of blocks (default 3).
        heads: Attention heads, and size of the pair state (default 8).
        radial: See :class:`SE2TransformerConv`.
        vector_channels: Vectors per order; a multiple of ``heads`` (default 0: distances only).
        max_order: Highest circular order of the vectors (default 2).
        out_vectors: Whether to return vectors, too (default: the last block returns only their
            invariants, so that all parameters get gradients from a loss of ``x``).
        reflections: Whether the output is invariant to reflections (default no).
        norm: ``"pre"`` (default) or ``"post"``.
        dropout: Dropout probability of the outputs of each sub-block in training (default 0.1).
        tolerance: See :class:`SE2TransformerConv`.
        backend: See :class:`SE2TransformerConv`.

    Raises:
        ValueError: Sizes that are not multiples of ``heads``, another ``norm``, or ``out_vectors``
            without ``vector_channels``.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import SE2Transformer
        >>> edge_index = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 1, 2, 3]])
        >>> transformer = SE2Transformer(16, num_layers=2, heads=4)
        >>> out = transformer(torch.randn(6, 16), edge_index, torch.randn(6, 2))
        >>> out.x.shape, out.pair.shape
        (torch.Size([6, 16]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        channels: int,
        num_layers: int = 3,
        heads: int = 8,
        *,
        radial: Callable[[int], nn.Module] = GaussianRadial,
        vector_channels: int = 0,
        max_order: int = 2,
        out_vectors: bool = False,
        reflections: bool = False,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.1,
        tolerance: float | None = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, count in (("heads", heads), ("num_layers", num_layers)):
            if count < 1:
                raise ValueError(f"{name} must be 1 or more; found {count}")
        for name, size in (("channels", channels), ("vector_channels", vector_channels)):
            if size % heads:
                raise ValueError(f"{name}={size} must be a multiple of heads={heads}")
            least = 1 if name == "channels" else 0
            if size < least:
                raise ValueError(f"{name} must be {least} or more; found {size}")
        if out_vectors and not vector_channels:
            raise ValueError("out_vectors needs vector_channels of 1 or more")
        if norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post'; found {norm!r}")
        self.channels = channels
        self.heads = heads
        self.vector_shape = (max_order, vector_channels, 2) if vector_channels else None

        def attention(index: int) -> SE2TransformerConv:
            conv = SE2TransformerConv(
                channels,
                channels // heads,
                heads,
                root_weight=False,  # the block has a residual connection
                radial=radial if index == 0 or vector_channels else None,
                vector_channels=vector_channels // heads,
                max_order=max_order,
                in_vector_channels=vector_channels if index else 0,
                out_vectors=vector_channels > 0 and (out_vectors or index < num_layers - 1),
                reflections=reflections,
                tolerance=tolerance,
                backend=backend,
            )
            conv.lin_skip = None  # never used
            return conv

        self.blocks = nn.ModuleList(
            _Block(attention(index), channels, norm == "pre", dropout)
            for index in range(num_layers)
        )
        self.norm = _LayerNorm(channels) if norm == "pre" else nn.Identity()

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        reset(self.blocks)
        reset(self.norm)

    def forward(self, x: Tensor, edge_index: Adj | EdgeGraph, pos: Tensor) -> SE2Output:
        """Return node features, vectors and pair states.

        Args:
            x: Node features, ``[N, channels]``.
            edge_index: Edges from source to destination, in any form that
                :class:`SE2TransformerConv` takes; values of a sparse matrix are not used.
            pos: Positions ``[N, 2]``; NaN for a node without a position (such as CLS).

        Returns:
            Node features, vectors and the last pair state.
        """
        self._check(x)
        unsorted, _ = to_edge_graph(edge_index, x.size(0), x.size(0))
        graph = unsorted.sorted()  # once, for all blocks
        vectors = pair = None
        for block in self.blocks:
            x, vectors, pair = block(x, graph, pos, vectors, pair)
        return SE2Output(self.norm(x), vectors, unsorted.unsort(pair))  # type: ignore[arg-type]

    def attention(self, x: Tensor, edge_index: Adj | EdgeGraph, pos: Tensor) -> Tensor:
        """Return the attention weights of every block, for inspection.

        :meth:`forward` does not keep them.

        Args:
            x: Node features ``[N, channels]``.
            edge_index: As for :meth:`forward`.
            pos: Positions ``[N, 2]``.

        Returns:
            Weights ``[num_layers, E, heads]``; those of a block sum to 1 over a node's edges.
        """
        self._check(x)
        graph, _ = to_edge_graph(edge_index, x.size(0), x.size(0))
        vectors = pair = None
        weights = []
        for block in self.blocks:
            x, vectors, pair = block(x, graph, pos, vectors, pair)
            # The pair state of a block is its logits.
            weights.append(softmax(pair, graph.edge_index[1], x.size(0))[0])
        return torch.stack(weights)

    def _check(self, x: Tensor) -> None:
        dtype = self.blocks[0].attention.lin_key.weight.dtype  # type: ignore[union-attr]
        check_nodes((x, x), (self.channels, self.channels), dtype)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        vectors = f", vector_channels={self.vector_shape[1]}" if self.vector_shape else ""
        return (
            f"{type(self).__name__}({self.channels}, num_layers={len(self.blocks)}, "
            f"heads={self.heads}{vectors})"
        )


class _Block(nn.Module):
    def __init__(
        self, attention: SE2TransformerConv, channels: int, pre: bool, dropout: float
    ) -> None:
        super().__init__()
        self.pre = pre
        self.attention = attention
        self.lin_out = nn.Linear(channels, channels)
        self.feed_forward = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )
        self.norm1 = _LayerNorm(channels)
        self.norm2 = _LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        for module in self.children():
            reset(module)

    def forward(
        self,
        x: Tensor,
        graph: EdgeGraph,
        pos: Tensor,
        vectors: Tensor | None,
        pair: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        normalized = None if vectors is None else _soft_rms_norm(vectors)
        message, *new, pair = self.attention(
            self.norm1(x) if self.pre else x,
            graph,
            pos=pos,
            vectors=normalized,
            pair=pair,
            return_pair=True,
        )
        if vectors is None or not new:
            vectors = new[0] if new else None
        else:
            vectors = vectors + new[0]
        x = x + self.dropout(self.lin_out(message))
        x = x if self.pre else self.norm1(x)
        x = x + self.dropout(self.feed_forward(self.norm2(x) if self.pre else x))
        return x if self.pre else self.norm2(x), vectors, pair


class _LayerNorm(nn.LayerNorm):
    """Layer normalisation with correct second derivatives under ``torch.func``.

    Those of PyTorch are wrong there, by up to 2.13, without an error.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not needs_plain_operations():
            return super().forward(input)
        centred = input - input.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def _soft_rms_norm(vectors: Tensor) -> Tensor:
    """Scale vectors to a root mean square below 1 over channels; small vectors hardly change."""
    square = vectors.square().sum(dim=-1, keepdim=True).mean(dim=2, keepdim=True)
    return vectors * torch.rsqrt(1 + square)
