"""What several transforms ask of a graph: which nodes are cells, and of which slice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType


def cell_mask(data: Data) -> Tensor:
    """``[num_nodes]`` bool: cells, as opposed to virtual nodes. All, if there are none."""
    if "node_type" in data:
        return data.node_type == NodeType.CELL
    return torch.ones(data.num_nodes, dtype=torch.bool, device=data.pos.device)


def rows_by_slice(data: Data) -> list[Tensor]:
    """Indices of the cells of each slice; one entry where ``data`` has no ``slice_id``."""
    if data.pos is None:
        raise ValueError("data.pos is missing; build the graph with stofm_geo.from_anndata")
    cells = cell_mask(data).nonzero().view(-1)
    if "slice_id" not in data:
        return [cells]
    of_cell = data.slice_id[cells]
    return [cells[of_cell == s] for s in of_cell.unique(sorted=True)]
