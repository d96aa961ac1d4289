"""Features of a cell and its neighbourhood at two scales."""

from __future__ import annotations

import torch
from torch import Tensor


def niche_features(x: Tensor, edge_index: Tensor, visible: Tensor | None = None) -> Tensor:
    r"""Concatenate node features with their means over one and two hops.

    .. math::
        n_i = \big[\, x_i \;\Vert\; (\hat A x)_i \;\Vert\; 2 (\hat A^2 x)_i \,\big]

    with :math:`\hat A` the mean over neighbours, as in SIGN (arXiv 2004.11198). The factor 2
    compensates for the smaller variance of wider means.

    Args:
        x: Node features ``[N, F]``.
        edge_index: Edges ``[2, E]``; means are over the sources.
        visible: ``[N]`` bool; the features of other nodes are 0 and left out of all means.
            ``None``: all nodes.

    Returns:
        Niche features ``[N, 3 F]``; a mean over no node is 0.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import niche_features
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])  # 0 - 1 - 2
        >>> niche_features(x, path).tolist()
        [[1.0, 2.0, 4.0], [2.0, 2.0, 4.0], [3.0, 2.0, 4.0]]
    """
    weight = x.new_ones(len(x)) if visible is None else visible.to(x.dtype)
    near = _neighbour_mean(x, edge_index, weight)
    far = _neighbour_mean(near, edge_index, torch.ones_like(weight))
    return torch.cat([x * weight[:, None], near, 2 * far], dim=1)


def _neighbour_mean(x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
    src, dst = edge_index
    message = (x * weight[:, None]).index_select(0, src)
    # scatter_add is parallel for an expanded index, whereas index_add is serial.
    total = torch.zeros_like(x).scatter_add(0, dst[:, None].expand_as(message), message)
    count = torch.zeros_like(weight).scatter_add(0, dst, weight.index_select(0, src))
    return total / count.clamp_min(1)[:, None]
