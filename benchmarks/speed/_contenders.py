"""Ways to attend along edges: ours, and what else PyTorch and PyG users would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import TransformerConv
from torch_geometric.utils import scatter, softmax

from benchmarks.speed._cases import Case
from stofm_geo.ops import EdgeGraph, available_backends, edge_attention

DENSE_NODES = 4000
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Contender:
    """One way to attend: from q, k, v and the bias in its own layout to ``[N, H, C]``."""

    attend: Attend
    layout: Callable[[Tensor], Tensor] = lambda bias: bias
    biased: bool = True


def contenders(case: Case, compiling: bool) -> dict[str, Contender]:
    n, heads, channels = case.nodes, case.heads, case.channels
    edge_index, (src, dst) = case.edge_index, case.edge_index
    graph = EdgeGraph(edge_index, n)
    _ = graph.reverse
    ptr, per_head = graph.ptr, dst[:, None].expand(-1, heads)
    conv = TransformerConv(heads * channels, channels, heads=heads, root_weight=False)

    def ours(backend: str) -> Attend:
        return lambda *tensors: edge_attention(*tensors, graph, backend=backend)[0]

    def logits_of(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        product = (q.index_select(0, dst) * k.index_select(0, src)).sum(-1)
        return product * channels**-0.5 + bias

    def by_scatter(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(q, k, bias)
        top = logits.new_full((n, heads), -torch.inf)
        top = top.scatter_reduce(0, per_head, logits.detach(), "amax")
        weight = (logits - top.index_select(0, dst)).exp()
        total = torch.zeros_like(top).scatter_add(0, per_head, weight)
        message = (weight[..., None] * v.index_select(0, src)).flatten(1)
        out = v.new_zeros(n, heads * channels)
        out = out.scatter_add(0, dst[:, None].expand_as(message), message)
        return out.view(n, heads, channels) / total[..., None], logits

    def by_segment(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def reduce(values: Tensor, kind: str) -> Tensor:
            return torch.segment_reduce(values, kind, offsets=ptr, axis=0)

        logits = logits_of(q, k, bias)
        weight = (logits - reduce(logits.detach(), "max").index_select(0, dst)).exp()
        message = (weight[..., None] * v.index_select(0, src)).flatten(1)
        out = reduce(message, "sum").view(n, heads, channels)
        return out / reduce(weight, "sum")[..., None], logits

    def by_pyg(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(q, k, bias)
        alpha = softmax(logits, dst, num_nodes=n)
        return scatter(alpha[..., None] * v.index_select(0, src), dst, dim_size=n), logits

    def transformer_conv(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=None)

    def padded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        def gather(x: Tensor) -> Tensor:
            return x.index_select(0, src).view(n, -1, heads, channels)

        logits = torch.einsum("nhc,nkhc->nkh", q, gather(k)) * channels**-0.5 + bias
        return torch.einsum("nkh,nkhc->nhc", logits.softmax(dim=1), gather(v)), logits

    def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        rows = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(*rows, attn_mask=bias)[0].transpose(0, 1)

    def to_dense(bias: Tensor) -> Tensor:
        full = bias.new_full((heads, n, n), -torch.inf)
        full[:, dst, src] = bias.t()
        return full[None]

    def compiled(attend: Callable) -> Attend:
        fast = torch.compile(attend, dynamic=False, fullgraph=True)

        def first(*tensors: Tensor) -> Tensor:
            result = fast(*tensors)
            return result[0] if isinstance(result, tuple) else result

        return first

    found = {"ours": Contender(ours("auto")), "reference": Contender(ours("reference"))}
    if available_backends()["scatter"] is None:
        found["scatter"] = Contender(ours("scatter"))
    found["TransformerConv"] = Contender(transformer_conv, biased=False)
    if case.degree:
        grid = (n, case.degree, heads)
        found["padded"] = Contender(lambda *t: padded(*t)[0], lambda bias: bias.view(grid))
    if n <= DENSE_NODES:
        found["dense"] = Contender(dense, to_dense)
    if compiling:
        for name, work in (("scatter", by_scatter), ("segments", by_segment), ("softmax", by_pyg)):
            found[f"compiled {name}"] = Contender(compiled(work))
        found["TransformerConv compiled"] = Contender(compiled(transformer_conv), biased=False)
        if case.degree:
            found["padded compiled"] = Contender(compiled(padded), found["padded"].layout)
    return found
