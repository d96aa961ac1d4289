"""Edge attention by torch-scatter, where that extra is installed."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import torch_scatter
except (ImportError, OSError) as error:  # OSError: built for another version of torch
    torch_scatter = None
    _REASON: str | None = (
        f"torch-scatter cannot be imported ({error}); pip install 'stofm-geo[ext]'"
    )
else:
    _REASON = None


def unavailable() -> str | None:
    """Why torch-scatter cannot be used, or ``None`` where it can."""
    return _REASON


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, edge_index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`stofm_geo.ops.edge_attention`."""
    src, dst = edge_index
    n, heads, channels = q.shape
    product = (q.index_select(0, dst) * k.index_select(0, src)).sum(-1)
    logits = product * channels**-0.5 + bias
    # Where every edge is hidden (a bias of -inf) nothing is attended to, and nothing is NaN.
    finite = logits.clamp_min(torch.finfo(logits.dtype).min / 2)
    alpha = torch_scatter.scatter_softmax(finite, dst, dim=0, dim_size=n)
    alpha = alpha.masked_fill(logits == -torch.inf, 0).to(v.dtype)
    message = (alpha[..., None] * v.index_select(0, src)).flatten(1)
    out = torch_scatter.scatter_sum(message, dst, dim=0, dim_size=n)
    return out.view(n, heads, v.shape[2]), logits, alpha
