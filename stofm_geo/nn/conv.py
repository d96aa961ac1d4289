"""One layer of attention over edges, with a pair state that is carried on."""

from __future__ import annotations

from torch import Tensor, nn

from stofm_geo.ops import edge_attention


class SE2TransformerConv(nn.Module):
    r"""The attention of SToFM (arXiv 2507.11588) over the edges of a graph.

    .. math::
        a_{ji} = \frac{(W_q x_i) \cdot (W_k x_j)}{\sqrt{C}} + p_{ji}, \qquad
        x'_i = W_o \Big\Vert_h \sum_{j \to i} \operatorname{softmax}_j(a^h_{ji}) \, W_v x_j

    with a pair state :math:`p`: a radial bias in the first layer, and the logits :math:`a` of the
    layer before in every other. Distances enter by the pair state alone, so that the layer is
    invariant to rotations and shifts.

    Args:
        channels: Size of the node features, in and out; a multiple of ``heads``.
        heads: Number of heads ``H`` (default 8).
        dropout: Share of the outputs dropped in training (default 0).

    Raises:
        ValueError: ``channels`` is not a multiple of ``heads``.
    """

    def __init__(self, channels: int, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels={channels} must be a multiple of heads={heads}")
        self.channels = channels
        self.heads = heads
        self.lin_qkv = nn.Linear(channels, 3 * channels)
        self.lin_out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        self.lin_qkv.reset_parameters()
        self.lin_out.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: Node features, ``[N, channels]``.
            edge_index: ``[2, E]``, from source to destination.
            pair: Pair state, ``[E, heads]``.

        Returns:
            New node features ``[N, channels]`` and pair state ``[E, heads]``.
        """
        channels = self.channels // self.heads
        q, k, v = self.lin_qkv(x).view(-1, 3, self.heads, channels).unbind(1)
        out, pair = edge_attention(q, k, v, pair, edge_index)
        return self.dropout(self.lin_out(out.flatten(1))), pair

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channels}, heads={self.heads})"
