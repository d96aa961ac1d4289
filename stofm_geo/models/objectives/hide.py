"""Hidden cells' counts, taken out of all that the others are told."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.genes.panel_encoder import compressed


def hide_counts(data: Data, drop_share: float) -> Data:
    """Take the counts of hidden cells out of a piece, and a share of the values of the others.

    The means that virtual cells and CLS have are those of what is left, so that nothing tells of
    a hidden cell. Values that stay are scaled up by what is lost: their sum is the same on average.

    Args:
        data: A piece of :func:`~stofm_geo.data.pieces.pieces`, ``mask`` told.
        drop_share: Of each visible cell's values.
    """
    ptr = np.r_[0, data.num_genes.cumsum(0).numpy()]
    width = int(data.gene.max()) + 1 if len(data.gene) else 1
    values = sp.csr_matrix(
        (data.value.numpy(), data.gene.numpy(), ptr), shape=(data.num_nodes, width)
    )
    n = int((data.node_type == NodeType.CELL).sum())  # cells come first
    hidden = data.mask[:n].numpy()
    size = data.cluster_size[n:].numpy().astype(np.float32)
    cls = (data.node_type[n:] == NodeType.CLS).numpy()
    size[cls] = size.sum()  # a piece has the virtual cells of one slice
    of = data.cluster[:n].numpy()[hidden] - n
    inside = (of[None, :] == np.arange(len(size))[:, None]) | cls[:, None]
    left = np.maximum(size - inside.sum(axis=1), 1)
    lost = sp.csr_matrix(inside.astype(np.float32)) @ values[:n][hidden]
    means = sp.diags(1 / left) @ (sp.diags(size) @ values[n:] - lost)
    # Like the cells' already, or stacking would go over all of them.
    means = means.astype(np.float32).sorted_indices()
    row = np.repeat(np.arange(n), data.num_genes[:n].numpy())
    stays = ~hidden[row] & (torch.rand(len(row)).numpy() >= drop_share)
    entries = slice(ptr[n])
    seen = sp.csr_matrix(
        (
            values.data[entries][stays] / (1 - drop_share),
            values.indices[entries][stays],
            np.r_[0, np.cumsum(np.bincount(row[stays], minlength=n))],
        ),
        shape=(n, width),
    )
    rows = sp.vstack([seen, means], format="csr")
    data.gene, data.value, data.num_genes = compressed(rows)
    return data
