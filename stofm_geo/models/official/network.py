"""The published network: an SE(2) Transformer whose logits are carried from layer to layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.models.official.slices import UNKNOWN_DISTANCE
from stofm_geo.nn import GaussianRadial
from stofm_geo.nn.tabulated import tabulated
from stofm_geo.ops import EdgeGraph, dense_attention, edge_attention

ATTENTION = ("slice", "edges")
_TOKEN_TYPES = 4  # cell, CLS, virtual cell, and padding, which has no use here
_TOLERANCE = 1e-6  # of the tabulated biases, a share of their range
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass
class Config:
    """The settings of ``config.json`` that make a difference, by their published names."""

    num_hidden_layers: int
    embedding_dim: int
    ffn_embedding_dim: int
    num_attention_heads: int
    gaussian_hidden_dim: int
    input_dim: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    activation_fn: str = "gelu"
    bias: bool = True

    @classmethod
    def read(cls, values: dict[str, Any]) -> Config:
        """Take what is known of a published configuration.

        Raises:
            TypeError, ValueError: A setting is missing or unfit, or one is set that this network
                does not have.
        """
        if not isinstance(values, dict):
            raise ValueError(f"holds a {type(values).__name__}, and no settings")
        known = [field.name for field in fields(cls)]
        needed = known[: known.index("dropout")]
        if missing := [name for name in needed if name not in values]:
            raise ValueError(f"has no {missing}; the published configuration has")
        for name in needed:
            check_positive(name, values[name], whole=True)
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            check_fraction(name, values.get(name, 0.1))
        if not isinstance(values.get("bias", True), bool):
            raise ValueError(f"has bias = {values['bias']!r}; it is true or false")
        heads, width = values["num_attention_heads"], values["embedding_dim"]
        if width % heads:
            raise ValueError(f"embedding_dim {width} cannot be shared out among {heads} heads")
        unknown = {"pre_layernorm": False, "layerdrop": 0.0, "kdim": None, "vdim": None}
        for name, usual in unknown.items():
            if values.get(name, usual) != usual:
                raise ValueError(f"has {name} = {values[name]!r}; only {usual!r} is supported")
        if values.get("activation_fn", "gelu") not in list(_ACTIVATIONS):
            raise ValueError(
                f"has activation_fn = {values['activation_fn']!r}; "
                f"only {sorted(_ACTIVATIONS)} are supported"
            )
        return cls(**{name: values[name] for name in known if name in values})


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalised after."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, wide = config.embedding_dim, config.ffn_embedding_dim
        self.q_proj = nn.Linear(width, width, bias=config.bias)
        self.k_proj = nn.Linear(width, width, bias=config.bias)
        self.v_proj = nn.Linear(width, width, bias=config.bias)
        self.out_proj = nn.Linear(width, width, bias=config.bias)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, wide)
        self.fc2 = nn.Linear(wide, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.heads = config.num_attention_heads
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[config.activation_fn]
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each ``[N, H, C]``."""
        q, k, v = (
            project(x).unflatten(1, (self.heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def update(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return new vectors ``[N, D]`` from the old ones and the attended values ``[N, H, C]``."""
        x = self.self_attn_layer_norm(x + self.dropout(self.out_proj(attended.flatten(1))))
        hidden = self.activation_dropout(self.activation(self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(hidden)))


class OfficialNetwork(nn.Module):
    r"""The published SE(2) Transformer, on graphs of :func:`~stofm_geo.models.official.subslices`.

    In layer ``l``, :math:`A_l = q_l k_l^T / \sqrt{c} + A_{l-1}`, :math:`A_{-1}` the radial bias of
    the distance; so :math:`A_l` is a product of the queries and keys of all layers up to ``l``,
    laid side by side, and no matrix of nodes x nodes has to be carried.

    Args:
        config: Sizes.
        attention: ``"slice"``: all nodes of a sub-slice see each other, as published.
            ``"edges"``: only those whose distance is told do; another function of the same
            weights, without dropout of attention.
        heads: Whether there are the two heads of pre-training (default).

    Raises:
        ValueError: An unknown ``attention``.
    """

    def __init__(self, config: Config, attention: str = "slice", heads: bool = True) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"unknown attention {attention!r}; choose one of {list(ATTENTION)}")
        self.config = config
        self.attention = attention
        width, num_heads = config.embedding_dim, config.num_attention_heads
        self.embedding_layer = nn.Linear(config.input_dim, width)
        self.token_type_embeddings = nn.Embedding(_TOKEN_TYPES, width)
        self.gaussian = GaussianRadial(num_heads, config.gaussian_hidden_dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = _head(width, width) if heads else None
        self.pair_head = _head(num_heads, 1) if heads else None

    def forward(
        self, data: Data, return_pairs: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Embed the nodes of a sub-slice or of a batch of them.

        Args:
            data: ``x`` ``[N, input_dim]``, ``node_type`` ``[N]``, ``edge_index`` ``[2, E]`` and
                ``edge_attr`` ``[E]``, distances; of a batch, ``ptr``.
            return_pairs: Pairs of nodes ``[2, P]``, row 0 the keys (sources), row 1 the queries
                (destinations), whose logits of the last layer are wanted, too.

        Returns:
            ``[N, D]``, or that and ``[P, H]``.

        Raises:
            ValueError: Features of another width, or a pair across sub-slices.
        """
        self._check(data)
        distance = data.edge_attr.to(data.x.dtype)
        graph = EdgeGraph(data.edge_index, data.num_nodes)
        ptr = data.ptr if "ptr" in data else None
        bias = first_bias = self._bias(distance)
        x = self.embedding_layer(data.x) + self.token_type_embeddings(data.node_type)
        x, queries, keys = self.dropout(x), [], []
        default_bias = self._default_bias(distance)
        if self.attention == "slice":
            bias = _heads_first(bias)
        layer: Any  # a Layer, which nn.ModuleList does not tell
        for layer in self.layers:
            q, k, v = layer.queries_keys_values(x)
            queries.append(q)
            keys.append(k)
            if self.attention == "slice":
                attended = dense_attention(
                    _side_by_side(queries),
                    _side_by_side(keys),
                    v,
                    bias,
                    default_bias,
                    graph,
                    ptr,
                    scale=q.size(2) ** -0.5,
                    dropout=self.config.attention_dropout if self.training else 0.0,
                )
            else:
                attended, bias, _ = edge_attention(q, k, v, bias, graph)
            x = layer.update(x, attended)
        if return_pairs is None:
            return x
        bias = self._bias_of(return_pairs, data, first_bias, default_bias)
        # All layers' products of each pair as one product; of attention, the logits alone.
        q = _side_by_side(queries) * len(queries) ** 0.5
        pairs = EdgeGraph(return_pairs, data.num_nodes)
        _, logits, _ = edge_attention(q, _side_by_side(keys), v[..., :0], bias, pairs)
        return x, logits

    def _check(self, data: Data) -> None:
        wanted, found = self.config.input_dim, data.x.size(1)
        if found != wanted:
            raise ValueError(
                f"x has {found} columns, the model takes {wanted}; the published weights need the "
                "vectors of the published cell encoder"
            )
        if data.edge_index is None or data.edge_attr is None or "node_type" not in data:
            raise ValueError(
                "data needs node_type, edge_index and edge_attr; official.subslices makes them"
            )

    def _bias(self, distance: Tensor) -> Tensor:
        """``[E]`` to ``[E, H]``, from tables; 0 where the distance is."""
        if not distance.numel():
            return self.gaussian(distance)
        if self.training:
            return tabulated(self.gaussian, distance, _TOLERANCE)
        # Where Gaussians are narrow, much comes of how single precision rounds what they are
        # functions of; this is rounded as published, and the table is one of its functions.
        with torch.no_grad():
            scaled = self.gaussian.scale * distance + self.gaussian.shift
            value = tabulated(self.gaussian, scaled, _TOLERANCE, scaled=True)
            value = value.masked_fill((distance == 0)[:, None], 0)
        if not torch.is_grad_enabled():
            return value
        # With the gradients of scale and shift, too.
        sloped = tabulated(self.gaussian, distance, _TOLERANCE)
        return sloped + (value - sloped).detach()

    def _default_bias(self, like: Tensor) -> Tensor:
        """Return the bias of a pair of unknown distance, ``[H]``."""
        return self.gaussian(like.new_full((1,), UNKNOWN_DISTANCE))[0]

    def _bias_of(self, pairs: Tensor, data: Data, bias: Tensor, default_bias: Tensor) -> Tensor:
        """Return the radial bias of any pairs ``[2, P]``, from that of the edges."""
        n = data.num_nodes
        if data.batch is not None and (data.batch[pairs[0]] != data.batch[pairs[1]]).any():
            raise ValueError("return_pairs joins nodes of different sub-slices")
        code, order = (data.edge_index[1] * n + data.edge_index[0]).sort()
        wanted = pairs[1] * n + pairs[0]
        place = torch.searchsorted(code, wanted).clamp_max(len(code) - 1)
        told = (code[place] == wanted)[:, None]
        return torch.where(told, bias[order[place]], default_bias)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Concatenate ``[N, H, C]`` to ``[N, H, C']``, stored heads first for attention."""
    return torch.cat([part.transpose(0, 1) for part in parts], dim=2).transpose(0, 1)


def _heads_first(values: Tensor) -> Tensor:
    """Return the same ``[E, H]``, stored heads first."""
    return values.t().contiguous().t()


def _head(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out_channels)
    )
