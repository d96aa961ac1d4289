"""Edge attention by torch-scatter, if that extra is installed."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops.edge_sum import compute_dtype
from stofm_geo.ops.graph import EdgeGraph

try:
    import torch_scatter
except (ImportError, OSError) as error:  # OSError: built for another version of torch
    torch_scatter = None
    _REASON: str | None = (
        f"torch-scatter cannot be imported ({error}); pip install 'stofm-geo[ext]'"
    )
else:
    _REASON = None


def unavailable(q: Tensor | None = None) -> str | None:
    """Return why torch-scatter cannot be used, or ``None`` where it can."""
    if _REASON is None and q is not None and q.is_meta:
        return "torch-scatter does not run on the meta device"
    return _REASON


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: EdgeGraph
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`stofm_geo.ops.edge_attention`; half precision in single precision."""
    src, dst = graph.edge_index[0], graph.edge_index[1]
    n, heads, channels = q.shape
    kind = compute_dtype(torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype))
    product = (q.to(kind).index_select(0, dst) * k.to(kind).index_select(0, src)).sum(-1)
    logits = product * channels**-0.5 + bias.to(kind)
    top = torch_scatter.scatter_max(logits.detach(), dst, dim=0, dim_size=n)[0]
    # Where every edge is hidden (a bias of -inf) nothing is attended to, and nothing is NaN.
    top = top.masked_fill(top == -torch.inf, 0)
    weight = (logits - top.index_select(0, dst)).exp()
    total = torch_scatter.scatter_sum(weight, dst, dim=0, dim_size=n)
    nothing = total == 0
    some = total.masked_fill(nothing, 1)
    lse = (top + some.log()).masked_fill(nothing, 0)
    alpha = weight / some.index_select(0, dst)
    message = (alpha[..., None] * v.to(kind).index_select(0, src)).flatten(1)
    out = torch_scatter.scatter_sum(message, dst, dim=0, dim_size=n)
    return out.view(n, heads, v.shape[2]).to(v.dtype), logits, lse
