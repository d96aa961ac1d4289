"""The attention weights of one cell."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from anndata import AnnData

from stofm_geo._anndata_checks import check_positions
from stofm_geo._keys import Keys, NodeType
from stofm_geo._validation import preview
from stofm_geo.data import SubSliceDataset
from stofm_geo.models.stofm import SToFM


@dataclass(frozen=True)
class CellAttention:
    """Attention of one cell onto its ``S`` sources: neighbours and virtual cells.

    Attributes:
        row: The cell's row in the AnnData.
        rows: Of the sources; -1 for virtual cells and CLS.
        node_type: Of the sources, codes of ``stofm_geo._keys.NodeType``.
        pos: Of the sources, ``[S, 2]``, in the AnnData's unit; of a virtual cell, the mean of the
            cells it stands for; NaN for CLS, the node of the whole slice.
        weight: ``[num_layers, S, heads]``; the sources' sum is 1 in each layer and head.
    """

    row: int
    rows: np.ndarray
    node_type: np.ndarray
    pos: np.ndarray
    weight: np.ndarray


def attention_of(
    model: SToFM,
    adata: AnnData,
    cell: str | int,
    *,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
) -> CellAttention:
    """Return the attention weights of one cell over its neighbours and macro nodes.

    Args:
        model: Fitted, or pretrained.
        adata: As :meth:`~stofm_geo.SToFM.embed` takes it.
        cell: Name in ``obs_names``, or row.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart.

    Raises:
        KeyError: There is no such cell, or a key is not there.
        TypeError: ``model`` is no :class:`~stofm_geo.SToFM`, or ``cell`` neither name nor row.
        ValueError: The name is that of several cells, or input that does not fit the model.
        RuntimeError: The model has not been fitted.
    """
    if not isinstance(model, SToFM):
        raise TypeError(
            f"attention is that of a stofm_geo.SToFM; found {type(model).__name__}"
            + (": give its model" if isinstance(getattr(model, "model", None), SToFM) else "")
        )
    row = _row_of(adata, cell)
    tissue = model.prepared(adata, spatial_key=spatial_key, slice_key=slice_key)
    part = next((part for part in tissue.slices if row in part.row), None)
    if part is None:
        raise ValueError(f"cell {adata.obs_names[row]!r} has no counts, and attends to none")
    network, options = model.state.network.eval(), model.config.subslice_options
    subslices = SubSliceDataset(part, model.state.encoder, **options)
    # Each cell is core in one sub-slice.
    subslice = next(subslice for subslice in subslices if row in subslice.n_id[subslice.core_mask])
    at = torch.nonzero(subslice.n_id == row).item()
    with torch.inference_mode():
        weight = network.attention(subslice.to(next(network.parameters()).device)).cpu()
    subslice = subslice.cpu()
    edges = torch.nonzero(subslice.edge_index[1] == at).flatten()
    sources = subslice.edge_index[0, edges]
    given = check_positions(adata, spatial_key)
    pos = _as_given(subslice.pos.numpy(), subslice.n_id.numpy(), given)[sources.numpy()]
    node_type = subslice.node_type[sources].numpy()
    pos[node_type == NodeType.CLS] = np.nan
    return CellAttention(
        row, subslice.n_id[sources].numpy(), node_type, pos, weight[:, edges].numpy()
    )


def _row_of(adata: AnnData, cell: str | int) -> int:
    if isinstance(cell, str):
        rows = np.flatnonzero(adata.obs_names == cell)
        if len(rows) != 1:
            raise (ValueError if len(rows) else KeyError)(
                f"{len(rows)} cells are named {cell!r}; the first are {preview(adata.obs_names)}"
            )
        return int(rows[0])
    if not isinstance(cell, Integral):
        raise TypeError(f"cell must be a name in obs_names or a row; found {cell!r}")
    if not 0 <= cell < adata.n_obs:
        raise KeyError(f"there is no row {cell}; adata has {adata.n_obs} cells")
    return int(cell)


def _as_given(pos: np.ndarray, n_id: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Positions in a slice's own frame, ``[N, 2]``, in that of the file.

    The frame is a turn, a shift and a scale away: what maps the cells maps virtual cells, too.
    """
    cells = n_id >= 0
    ones = np.ones((len(pos), 1))
    frame = np.hstack([pos, ones])
    return frame @ np.linalg.lstsq(frame[cells], given[n_id[cells]], rcond=None)[0]
