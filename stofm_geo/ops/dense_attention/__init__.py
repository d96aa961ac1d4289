"""Multi-head attention of every node to all nodes of its graph, with a bias on some pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops.autodiff import needs_plain_operations
from stofm_geo.ops.dense_attention.blocks import blockwise, check_no_dropout
from stofm_geo.ops.dense_attention.reference import dense_reference
from stofm_geo.ops.edge_sum import compute_dtype
from stofm_geo.ops.graph import EdgeGraph


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    default_bias: Tensor,
    graph: EdgeGraph | Tensor,
    ptr: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    r"""Attend from every node to all nodes of its graph, a block of rows at a time.

    .. math::
        \ell_{ij} = s \, q_i \cdot k_j + b_{ij}, \qquad
        o_i = \sum_j \frac{e^{\ell_{ij}}}{\sum_{j'} e^{\ell_{ij'}}} v_j

    where :math:`b_{ij}` is given for some pairs, the edges, and is one number a head for all
    others. No matrix of nodes x nodes is stored; the backward recomputes the attention weights.

    Args:
        q: Queries ``[N, H, C]``.
        k: Keys ``[N, H, C]``.
        v: Values ``[N, H, D]``.
        bias: Bias of the edges ``[E, H]``, in the order of ``graph``; each pair at most once.
        default_bias: Bias of all other pairs within a graph, ``[H]``.
        graph: Edges, ``[2, E]`` int64 or an :class:`EdgeGraph`; no edge joins two graphs.
        ptr: Start of each graph of a batch, ``[B + 1]``. ``None``: all nodes are one graph.
        scale: ``s``. ``None``: ``C ** -0.5``.
        dropout: Dropout probability of the weights, drawn from PyTorch's global generator.

    Returns:
        ``[N, H, D]``, with gradients of any order to ``q``, ``k``, ``v``, ``bias`` and
        ``default_bias``. Half precision is computed in single precision. Gradients of gradients,
        ``torch.func`` transforms and forward-mode AD use matrices of nodes x nodes, and do not
        support dropout.

    Raises:
        ValueError: Shapes do not match.
        IndexError: An edge names a node that does not exist.
        RuntimeError: ``dropout`` where it is not supported.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import dense_attention
        >>> q = k = torch.zeros(4, 1, 2)  # alike, so that all weights are equal
        >>> v = torch.arange(4.0).view(4, 1, 1)
        >>> no_edges = torch.empty(2, 0, dtype=torch.long)
        >>> out = dense_attention(q, k, v, torch.zeros(0, 1), torch.zeros(1), no_edges)
        >>> out.flatten().round(decimals=4).tolist()
        [1.5, 1.5, 1.5, 1.5]
    """
    if not isinstance(graph, EdgeGraph):
        graph = EdgeGraph(graph, q.size(0))
    n, heads, _ = q.shape
    if k.shape != q.shape or v.shape[:2] != q.shape[:2]:
        found = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k must be [N, H, C] and v [N, H, D]; found {found}")
    edges = graph.edge_index.size(1)
    if bias.shape != (edges, heads) or default_bias.shape != (heads,):
        raise ValueError(
            f"bias must be [{edges}, {heads}] and default_bias [{heads}]; "
            f"found {list(bias.shape)} and {list(default_bias.shape)}"
        )
    bounds = [0, n] if ptr is None else ptr.tolist()
    if bounds[0] != 0 or bounds[-1] != n:
        raise ValueError(f"ptr must go from 0 to {n}, the number of nodes; found {bounds}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1; found {dropout}")
    scale = q.size(2) ** -0.5 if scale is None else scale
    kind = compute_dtype(torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype))
    dtype, given = v.dtype, (q, k, v, graph.sort(bias))
    q, k, v, bias = (tensor.to(kind).transpose(0, 1).contiguous() for tensor in given)
    default_bias = default_bias.to(kind)
    if needs_plain_operations():
        check_no_dropout(dropout)
        return (
            dense_reference(q, k, v, bias, default_bias, graph, bounds, scale)
            .transpose(0, 1)
            .to(dtype)
        )
    seed = int(torch.randint(2**62, ())) if dropout else 0
    out = blockwise(q, k, v, bias, default_bias, graph, bounds, scale, dropout, seed)
    return out.transpose(0, 1).to(dtype)
