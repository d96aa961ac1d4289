"""One AnnData as one PyG graph, and node vectors back into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._anndata_checks import check_positions
from stofm_geo._keys import Keys
from stofm_geo._slices import label_slices
from stofm_geo._sparse import check_sparse
from stofm_geo._validation import listed
from stofm_geo.genes import CellFeatures, ObsmFeatures, PCAFeatures


def from_anndata(
    adata: AnnData,
    features: str | CellFeatures | None = None,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    *,
    neighbors_key: str | None = None,
) -> Data:
    """Make a graph of a tissue, with one node per cell, in the order of the rows.

    Args:
        adata: Cells or spots; ``X`` in memory or backed, dense or sparse.
        features: Where ``x`` comes from: a key in ``obsm``, an encoder of
            :mod:`stofm_geo.genes` (fitted here if it is not yet), or ``None`` for
            :class:`~stofm_geo.genes.PCAFeatures` of the counts in ``X``.
        spatial_key: Key in ``obsm`` of the positions ``[n, 2]``, any unit. Of more columns the
            first two are used, with a warning.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one slice,
            unless ``uns["spatialdata_attrs"]`` names several regions, which are slices. No edge
            joins two slices.
        neighbors_key: Reuse a graph that squidpy (``"spatial"``) or scanpy has made:
            ``obsp[neighbors_key + "_connectivities"]`` becomes ``edge_index``, and
            ``obsp[neighbors_key + "_distances"]``, if it exists, ``edge_attr`` ``[E]``. ``None``:
            no edges; add them with :class:`~stofm_geo.transforms.SpatialKNN` or another transform.

    Returns:
        ``Data`` with ``x`` ``[n, F]`` float32, ``pos`` ``[n, 2]`` float64, ``n_id`` (row in
        ``adata``) and, with ``slice_key``, ``slice_id`` (number) and ``slice_names``.

    Raises:
        KeyError: A key does not exist.
        ValueError: There are no cells, positions are NaN or infinite, or counts or features are
            invalid.
        TypeError: Positions or counts are not numbers.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from_anndata(datasets.toy_tissue(200, 30, seed=0))
        Data(x=[200, 29], pos=[200, 2], n_id=[200])
    """
    if adata.n_obs == 0:
        raise ValueError("there are no cells")
    pos = check_positions(adata, spatial_key)
    encoder: Any = features
    if features is None:
        encoder = PCAFeatures()
    elif isinstance(features, str):
        encoder = ObsmFeatures(features)
    if not hasattr(encoder, "out_channels"):
        encoder = encoder.fit([adata])
    data = Data(
        x=torch.from_numpy(encoder.transform(adata)),
        pos=torch.from_numpy(pos),
        n_id=torch.arange(adata.n_obs),
    )
    slices = label_slices(adata, pos, spatial_key, slice_key)
    if slices.names:
        data.slice_id = torch.from_numpy(slices.codes)
        data.slice_names = slices.names
    if neighbors_key is not None:
        edge_index, distance = _stored_graph(adata, neighbors_key)
        if slices.names:
            within = data.slice_id[edge_index[0]] == data.slice_id[edge_index[1]]
            edge_index = edge_index[:, within]
            distance = None if distance is None else distance[within]
        data.edge_index, data.edge_attr = edge_index, distance
    return data


def to_obsm(adata: AnnData, z: Tensor, n_id: Tensor, key_added: str = Keys.EMBEDDING) -> None:
    """Write node vectors into ``adata.obsm[key_added]``, ``[n, D]`` float32, by row.

    Rows that ``n_id`` does not name keep their vectors if ``obsm[key_added]`` exists in this shape,
    so that sub-slices can be written one after the other; otherwise they are NaN.

    Args:
        adata: Changed in place.
        z: Node vectors, ``[num_nodes, D]``.
        n_id: Row in ``adata`` of each node, ``[num_nodes]``; nodes with -1 (virtual) are left out.
        key_added: Key in ``obsm``.

    Raises:
        ValueError: ``z`` and ``n_id`` have different lengths.

    Examples:
        >>> from stofm_geo import datasets, from_anndata
        >>> from stofm_geo.data import to_obsm
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> data = from_anndata(adata)
        >>> to_obsm(adata, data.x, data.n_id, key_added="X_pca")
        >>> adata.obsm["X_pca"].shape
        (200, 29)
    """
    if z.shape[0] != n_id.shape[0]:
        raise ValueError(f"z has {z.shape[0]} rows and n_id {n_id.shape[0]}; one a node is needed")
    cells = n_id >= 0
    shape = adata.n_obs, z.shape[1]
    before = adata.obsm.get(key_added)
    if before is not None and before.shape == shape:
        vectors = np.array(before, dtype=np.float32)
    else:
        vectors = np.full(shape, np.nan, dtype=np.float32)
    vectors[n_id[cells].cpu().numpy()] = z[cells].detach().cpu().float().numpy()
    adata.obsm[key_added] = vectors


def _stored_graph(adata: AnnData, key: str) -> tuple[Tensor, Tensor | None]:
    names = [f"{key}_connectivities", f"{key}_distances"]
    if names[0] not in adata.obsp:
        raise KeyError(
            f"obsp has no {names[0]!r}; it has {listed(adata.obsp)}; "
            "run squidpy.gr.spatial_neighbors, or leave neighbors_key out"
        )
    for name in names:
        if name in adata.obsp:
            check_sparse(adata.obsp[name], f"obsp[{name!r}]")
    graph = sp.csr_matrix(adata.obsp[names[0]], copy=True)
    graph.setdiag(0)
    graph.eliminate_zeros()
    graph = graph.tocoo()
    edge_index = torch.from_numpy(np.stack([graph.col, graph.row]).astype(np.int64))
    distance = None
    if names[1] in adata.obsp:
        of_edge = sp.csr_matrix(adata.obsp[names[1]])[graph.row, graph.col]
        distance = torch.from_numpy(np.asarray(of_edge, dtype=np.float32).ravel())
    return edge_index, distance
