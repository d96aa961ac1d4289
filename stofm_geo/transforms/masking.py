"""Masking of cells for pre-training."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.utils import scatter

from stofm_geo._keys import NodeType
from stofm_geo._validation import check_fraction
from stofm_geo.transforms._base import GraphTransform
from stofm_geo.transforms._slices import cell_mask
from stofm_geo.transforms._validation import check_attribute


@functional_transform("mask_cells")
class MaskCells(GraphTransform):
    """Mask the features of some cells, and remove them from the means of virtual nodes.

    Sets ``data.x_target`` (the original features) and ``data.mask`` (bool, the masked cells, whose
    ``x`` is 0; a model may put a mask token there). The feature of a macro node becomes the mean
    over its other cells, so that it does not leak the masked ones. If ``data.core_mask`` exists,
    only core cells are masked.

    Args:
        p: Fraction of the cells that are masked (default 0.12, as published).

    Raises:
        ValueError: ``p`` is not between 0 and 1, or ``data`` has no ``x``.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from stofm_geo.transforms import MaskCells
        >>> data = MaskCells(p=0.5)(Data(x=torch.ones(100, 3)))
        >>> data.x[data.mask].sum().item(), data.x_target.sum().item()
        (0.0, 300.0)
    """

    uses_pos = False

    def __init__(self, p: float = 0.12) -> None:
        check_fraction("p", p)
        self.p = p

    def check(self, data: Data) -> None:
        """See :class:`GraphTransform`."""
        super().check(data)
        check_attribute(data, "x", type(self).__name__, "it masks features")

    def transform_graph(self, data: Data) -> Data:
        """See :class:`GraphTransform`."""
        candidates = data.core_mask if "core_mask" in data else cell_mask(data)
        mask = candidates & (torch.rand(data.num_nodes, device=data.x.device) < self.p)
        data.x_target, data.mask = data.x, mask
        data.x = data.x.masked_fill(mask[:, None], 0)
        if "cluster" in data:
            masked = (data.cluster >= 0) & mask
            macro_node = data.cluster[masked]
            x = data.x_target.to(torch.promote_types(data.x.dtype, torch.float32))  # for sums
            masked_sum = scatter(x[masked], macro_node, dim_size=data.num_nodes, reduce="sum")
            n_visible = data.cluster_size - torch.bincount(macro_node, minlength=data.num_nodes)
            mean = (x * data.cluster_size[:, None] - masked_sum) / n_visible.clamp_min(1)[:, None]
            dtype = data.x.dtype if data.x.is_floating_point() else x.dtype
            macro = (data.node_type == NodeType.MACRO)[:, None]
            data.x = torch.where(macro, mean.to(dtype), data.x)
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"
