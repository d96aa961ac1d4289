"""Attention weights of one cell, drawn on the tissue."""

from __future__ import annotations

import os

import anndata as ad
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array

from stofm_geo._keys import Keys, NodeType
from stofm_geo.models import SToFM
from stofm_geo.models.attention import attention_of
from stofm_geo.pl._paint import MISSING, Paint
from stofm_geo.pl._sheet import (
    Cells,
    Sheet,
    cells_by_slice,
    check_picture,
    draw_cells,
    micrometres,
    write,
)

_INK = "0.1"
_KINDS = (NodeType.CELL, NodeType.MACRO, NodeType.CLS)


def attention(
    model: SToFM,
    adata: ad.AnnData,
    cell: str | int,
    *,
    layer: int = -1,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Draw the attention weights of one cell over its neighbours and macro nodes.

    The left panel shows the slice with its macro nodes, each at the mean position of its cells; the
    right panel shows the neighbourhood of the cell. Weights are means over the heads; together with
    that of CLS, the node of the whole slice, which has no position, they sum to 1. The cell itself
    is drawn as a cross and a dark dot.

    Args:
        model: A fitted or pretrained :class:`~stofm_geo.SToFM`.
        adata: Slices, as for ``model.embed``.
        cell: Name in ``obs_names``, or row.
        layer: Index of the layer of the network, negative from the end (default: the last).
        spatial_key: As in :func:`spatial`.
        slice_key: Column of ``obs`` with the slice of each cell; that of the cell is drawn.
        title: Heading; None names the cell.
        save: As in :func:`spatial`.

    Returns:
        Array of the two Axes, ``[2]``.

    Raises:
        KeyError: The cell or a key does not exist.
        TypeError: ``model`` is not a ``SToFM``, or ``cell`` neither name nor row.
        ValueError: The layer does not exist, the input does not match the model, or the extension
            of ``save`` is unknown.
        RuntimeError: The model is not fitted.
        FileNotFoundError: The folder of ``save`` does not exist.

    Examples:
        >>> from stofm_geo import SToFM, datasets, pl
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> model = SToFM().fit(adata, max_steps=2, progress=False)
        >>> axes = pl.attention(model, adata, 0)
        >>> axes.shape
        (2,)
    """
    path = None if save is None else check_picture(save)
    result = attention_of(model, adata, cell, spatial_key=spatial_key, slice_key=slice_key)
    layers = len(result.weight)
    if not -layers <= layer < layers:
        raise ValueError(f"there is no layer {layer}; the model has {layers}")
    weight = result.weight[layer].mean(axis=1)
    is_cell, is_macro, is_cls = (result.node_type == kind for kind in _KINDS)
    bar = ScalarMappable(Normalize(0, float(weight[~is_cls].max())), colormaps["viridis_r"])
    rgba = np.tile(to_rgba_array(MISSING), (adata.n_obs, 1))
    slices = cells_by_slice(adata, spatial_key, slice_key).values()
    cells = next(cells for cells in slices if result.row in cells.rows)
    center = cells.xy[cells.rows == result.row][0]
    heading = f"Attention of {adata.obs_names[result.row]}" if title is None else title
    sheet = Sheet({"": cells}, 2, heading)
    left, right = sheet.axes[0]

    um = micrometres(adata)
    sheet.draw(left, cells, rgba, None, um)
    outline = {"edgecolors": _INK, "linewidths": 0.7, "marker": "D", "zorder": 3}
    left.scatter(*result.pos[is_macro].T, s=60, c=bar.to_rgba(weight[is_macro]), **outline)
    left.scatter(*center, s=120, marker="+", color=_INK, linewidths=1.8, zorder=4)
    subtitle = f"macro nodes {weight[is_macro].sum():.0%}, whole slice {weight[is_cls].sum():.0%}"
    left.set_title(subtitle, fontsize=11)

    rgba[result.rows[is_cell]] = bar.to_rgba(weight[is_cell])
    rgba[result.row] = to_rgba_array(_INK)
    reach = np.abs(result.pos[is_cell] - center).max(initial=cells.spacing)
    closer = 2.4 * reach / min(sheet.extent)
    window = closer * sheet.extent[0], closer * sheet.extent[1]
    inside = (np.abs(cells.xy - center) <= np.array(window) / 2).all(axis=1)
    window_cells = Cells(cells.rows[inside], cells.xy[inside], cells.spacing)
    scale = sheet.points_per_unit / closer
    for pos, color in zip(result.pos[is_cell], bar.to_rgba(weight[is_cell]), strict=True):
        right.plot(*zip(center, pos, strict=True), color=color, lw=2.5, zorder=0.5)
    draw_cells(right, window_cells, rgba, 0.45 * cells.spacing * scale, window, scale, um)
    right.set_title(f"{is_cell.sum()} neighbours {weight[is_cell].sum():.0%}", fontsize=11)
    sheet.finish([Paint("attention weight", rgba, bar=bar)])
    write(left, path)
    return sheet.axes[0]
