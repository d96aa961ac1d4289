"""Slices as what a network is trained and run on: sub-slices with virtual cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._checks import naming
from stofm_geo._keys import NodeType
from stofm_geo._principal import BLOCK, half_whitening, sparse_axes
from stofm_geo.data.slices import slice_graph
from stofm_geo.genes import CellFeatures, PanelEncoder
from stofm_geo.genes.panel_encoder import compressed
from stofm_geo.transforms import JoinMacroNodes, MacroNodes, SpatialKNN, SubSlices


def pieces(
    part: AnnData,
    features: CellFeatures,
    *,
    k: int,
    max_macro_nodes: int,
    cells_per_subslice: int,
    n_components: int,
) -> Sequence[Data]:
    """A slice of :func:`~stofm_geo.data.split_slices`, each piece cut when it is asked for.

    ``x`` are the features. Of a :class:`~stofm_geo.genes.PanelEncoder`, which is trained with the
    network, they are the components of the slice that its cells are asked for, and a piece also
    has what the encoder reads (``gene``, ``value``, ``num_genes``, ``technology``) and from which
    values of the ``panel`` the components are made (``loadings`` ``[panel, components]``).

    Args:
        part: One slice.
        features: Fitted; or a panel encoder.
        k: Nearest neighbours a cell is joined to.
        max_macro_nodes: Most virtual cells.
        cells_per_subslice: Most core cells of a piece.
        n_components: Of the slice, for a panel encoder.
    """
    graph = Compose([SpatialKNN(k), MacroNodes(max_nodes=max_macro_nodes, join=False)])
    # Two edges of halo, so that the niches of border cells are whole.
    cut = SubSlices(cells_per_subslice, halo=2)
    with naming(part.uns["name"]):
        if not isinstance(features, PanelEncoder):
            return cut.lazily(graph(slice_graph(part, features)), JoinMacroNodes())
        values = features.read(part)
        own = _Components(values, n_components)
        data = graph(slice_graph(part, own))
    data.node = torch.arange(data.num_nodes)
    rows = _with_virtual_cells(values, data)
    constant = {
        "panel": torch.from_numpy(own.panel),
        "loadings": torch.from_numpy(own.loadings),
        "technology": torch.tensor([features.technology_of(part)]),
    }

    def finish(piece: Data) -> Data:
        piece.gene, piece.value, piece.num_genes = compressed(rows[piece.node.numpy()])
        for name, value in constant.items():
            piece[name] = value
        return JoinMacroNodes()(piece)

    return cut.lazily(data, finish)


class _Components:
    """Principal components of one slice's own values, halfway whitened."""

    def __init__(self, values: sp.csr_matrix, n_components: int) -> None:
        self.panel = np.unique(values.indices).astype(np.int64)
        self.values = values[:, self.panel]
        self.out_channels = max(min(n_components, *(size - 1 for size in self.values.shape)), 1)
        mean, axes, variance = sparse_axes(self._blocks(), self.out_channels)
        self.loadings = (axes / half_whitening(variance)[:, None]).T.astype(np.float32)
        self.centre = (mean @ self.loadings).astype(np.float32)

    def transform(self, adata: AnnData) -> np.ndarray:
        """Of the cells of the slice."""
        return np.concatenate([part @ self.loadings for part in self._blocks()]) - self.centre

    def _blocks(self):  # type: ignore[no-untyped-def]
        return (self.values[i : i + BLOCK] for i in range(0, self.values.shape[0], BLOCK))


def _with_virtual_cells(values: sp.csr_matrix, data: Data) -> sp.csr_matrix:
    """Values of all nodes: CLS has the mean of the slice, a virtual cell that of its cells."""
    n = values.shape[0]
    cluster = data.cluster[:n].numpy() - n
    virtual = data.num_nodes - n
    mean = sp.csr_matrix(
        (np.ones(n, dtype=np.float32), (cluster, np.arange(n))), shape=(virtual, n)
    )
    cls = data.node_type[n:].numpy() == NodeType.CLS
    mean = sp.vstack([mean, np.ones((1, n), dtype=np.float32)]).tocsr()
    mean = mean[np.where(cls, virtual, np.arange(virtual))]
    size = np.asarray(mean.sum(axis=1)).ravel()
    rows = sp.vstack([values, sp.diags(1 / size) @ mean @ values], format="csr", dtype=np.float32)
    rows.sort_indices()
    return rows
