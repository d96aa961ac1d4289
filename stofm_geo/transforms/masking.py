"""Hide cells, so that a model can be asked for them."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import scatter

from stofm_geo._checks import check_share
from stofm_geo._keys import NodeType
from stofm_geo.transforms._slices import cell_mask


@functional_transform("mask_cells")
class MaskCells(BaseTransform):
    """Hide the features of some cells, and of the virtual nodes what came from them.

    Sets ``data.x_target`` (the features before) and ``data.mask`` (bool, the hidden cells, whose
    ``x`` is 0; a model puts its own token there). A virtual node's feature becomes the mean over
    its other cells, so that it gives nothing away. Where ``data.core_mask`` is there, only core
    cells are hidden.

    Args:
        p: Share of the cells that are hidden (default 0.12, as published).

    Raises:
        ValueError: ``data`` is a batch with virtual nodes; mask each graph before batching.
    """

    def __init__(self, p: float = 0.12) -> None:
        check_share("p", p)
        self.p = p

    def forward(self, data: Data) -> Data:
        """Return ``data`` with new ``x``, and ``x_target`` and ``mask``."""
        if "cluster" in data and "batch" in data:
            raise ValueError("MaskCells takes one graph at a time; mask before batching")
        may_hide = data.core_mask if "core_mask" in data else cell_mask(data)
        mask = may_hide & (torch.rand(data.num_nodes, device=data.x.device) < self.p)
        data.x_target, data.mask = data.x, mask
        data.x = data.x.masked_fill(mask[:, None], 0)
        if "cluster" in data:
            hidden = (data.cluster >= 0) & mask
            of = data.cluster[hidden]
            lost = scatter(data.x_target[hidden], of, dim_size=data.num_nodes, reduce="sum")
            left = data.cluster_size - torch.bincount(of, minlength=data.num_nodes)
            mean = (data.x * data.cluster_size[:, None] - lost) / left.clamp_min(1)[:, None]
            data.x = torch.where((data.node_type == NodeType.MACRO)[:, None], mean, data.x)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"
