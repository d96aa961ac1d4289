"""Figure of equal panels, one per slice, and drawing of cells in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import anndata as ad
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
from scipy.spatial import cKDTree

from stofm_geo._anndata_checks import check_positions
from stofm_geo._colors import natural_sort
from stofm_geo._files import atomic_path
from stofm_geo._keys import Keys
from stofm_geo._slices import label_slices
from stofm_geo.pl._paint import MISSING, Paint

DPI = 200  # of a figure on the screen
_SAVED = {"dpi": 300, "bbox_inches": "tight"}  # what journals ask for
_MICROMETRES = {"nm": 1e-3, "um": 1.0, "mm": 1e3}
_WIDEST, _HIGHEST, _LARGEST = (
    12.5,
    7.0,
    5.2,
)  # inches: width and height of all panels, side of one panel
_GAP, _TITLE, _MARGIN = 0.2, 0.3, 0.15  # inches


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Check that a figure can be written to ``path``.

    Args:
        path: File name, its format given by the extension.

    Returns:
        ``path`` as a Path.

    Raises:
        ValueError: matplotlib cannot write the extension.
        FileNotFoundError: The folder does not exist.

    Examples:
        >>> from stofm_geo.pl import check_picture
        >>> check_picture("tissue.png").name
        'tissue.png'
        >>> check_picture("tissue.docx")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: picture 'tissue.docx' ends in '.docx', which matplotlib cannot write: ...
    """
    path, known = Path(path), sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"picture {str(path)!r} ends in {path.suffix!r}, which matplotlib cannot write: "
            f"use one of {', '.join('.' + name for name in known)}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"picture {str(path)!r}: there is no folder {str(path.parent)!r}; create it first"
        )
    return path


def plain_axes(width: float, height: float, columns: int = 1) -> np.ndarray:
    """Return the Axes of a new figure in one row, ``[columns]``; sizes in inches."""
    figure = Figure((columns * width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8, length=2)
    return axes


@dataclass(frozen=True)
class Cells:
    rows: np.ndarray  # positions in adata
    xy: np.ndarray  # [len(rows), 2]
    spacing: float  # distance from cell to cell

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest x and y, without outliers.

        Outliers are farther from the middle 98 % of the cells than their extent, on either axis; a
        single one would reduce the tissue to a dot.
        """
        low, high = np.percentile(self.xy, [1, 99], axis=0)
        reach = np.maximum(high - low, self.spacing)
        inside = ((self.xy >= low - reach) & (self.xy <= high + reach)).all(axis=1)
        return self.xy[inside].min(axis=0), self.xy[inside].max(axis=0)


class Sheet:
    """Figure of equal panels with legends on the right, laid out in inches.

    No layout engine is used: panels keep the shape of the tissue, the right column is as wide as
    its longest label, and the marker size is known before drawing.
    """

    def __init__(self, slices: dict[str, Cells], per_group: int, title: str) -> None:
        self.extent = window(slices)
        width, height = self.extent
        n = len(slices)

        def inches_per_unit(columns: int) -> float:
            rows = -(-n // columns)
            wide = (_WIDEST - columns * per_group * _GAP) / (columns * per_group * width)
            high = (_HIGHEST - rows * (_TITLE + _GAP)) / (rows * height)
            return min(wide, high, _LARGEST / max(width, height))

        # The fewest columns among equals; panels are at least one inch, so the page may grow.
        self._columns = max(range(1, n + 1), key=lambda c: (round(inches_per_unit(c), 9), -c))
        scale = max(inches_per_unit(self._columns), 1 / max(width, height))
        self.points_per_unit = 72 * scale
        self._panel = width * scale, height * scale
        self._step = self._panel[0] + _GAP, self._panel[1] + _TITLE + _GAP
        self._title = title
        # Whatever the user's rcParams say.
        self._figure = Figure(dpi=DPI, layout="none")  # type: ignore[arg-type]
        self._canvas = FigureCanvasAgg(self._figure)
        self.axes = np.empty((n, per_group), dtype=object)
        for index in np.ndindex(self.axes.shape):
            self.axes[index] = self._figure.add_axes((0, 0, 1, 1))

    def draw(
        self, ax: Axes, cells: Cells, rgba: np.ndarray, size: float | None, um: float | None
    ) -> None:
        um = (
            um if ax is self.axes[0, 0] else None
        )  # all panels have the same scale, so one scale bar
        draw_cells(ax, cells, rgba, size, self.extent, self.points_per_unit, um)

    def finish(self, paints: list[Paint]) -> None:
        """Measure the legends, size the page accordingly, and place panels and legends."""
        n, per_group = self.axes.shape
        rows = -(-n // self._columns)
        legends = [
            self._figure.legend(**legend_style(paint), loc="upper left")
            for paint in paints
            if paint.legend
        ]
        renderer = self._canvas.get_renderer()
        boxes = [legend.get_window_extent(renderer) for legend in legends]
        bar = next((paint for paint in paints if paint.bar is not None), None)
        legend_width = max((box.width / DPI for box in boxes), default=0.95 if bar else 0.0)
        legend_height = sum(box.height / DPI + 0.25 for box in boxes)
        top_margin = _MARGIN + (0.35 if self._title else 0)
        panels_width = self._columns * per_group * self._step[0] - _GAP
        width = _MARGIN + panels_width + (legend_width + 0.25 if legend_width else 0) + _MARGIN
        height = max(top_margin + rows * self._step[1], top_margin + legend_height) + _MARGIN
        self._figure.set_size_inches(width, height)

        def place(left: float, top: float, w: float, h: float) -> tuple[float, float, float, float]:
            return left / width, 1 - (top + h) / height, w / width, h / height

        top = (height - _MARGIN + top_margin - rows * self._step[1]) / 2 + _TITLE  # centred
        for (group, member), ax in np.ndenumerate(self.axes):
            row, column = divmod(group, self._columns)
            left = _MARGIN + (column * per_group + member) * self._step[0]
            ax.set_position(place(left, top + row * self._step[1], *self._panel))
        left = _MARGIN + panels_width + 0.25
        legend_top = max(top_margin, min(top, height - _MARGIN - legend_height))
        for legend, box in zip(legends, boxes, strict=True):
            # By default the anchor is a fraction of what is saved, which may be a part of the page.
            anchor = left / width, 1 - legend_top / height
            legend.set_bbox_to_anchor(anchor, self._figure.transFigure)
            legend_top += box.height / DPI + 0.25
        if bar is not None and bar.bar is not None:
            bar_height = min(3.0, 0.7 * self._panel[1])
            cax = self._figure.add_axes(
                place(left, top + (self._panel[1] - bar_height) / 2, 0.14, bar_height)
            )
            scale = self._figure.colorbar(bar.bar, cax=cax, extend=bar.extend)
            scale.outline.set_visible(False)
            scale.set_label(bar.title, size=9)
            cax.tick_params(labelsize=8, length=2)
        middle = (_MARGIN + panels_width / 2) / width
        y = 1 - _MARGIN / height
        self._figure.text(middle, y, self._title, ha="center", va="top", size=13, weight="bold")


def draw_cells(
    ax: Axes,
    cells: Cells,
    rgba: np.ndarray,
    size: float | None,
    extent: tuple[float, float],
    points_per_unit: float,
    um: float | None,
) -> None:
    """Draw cells in the middle of a window of ``extent``, with a scale bar if ``um`` is known."""
    if size is None:
        size = float(np.clip(0.92 * cells.spacing * points_per_unit, 0.7, 14))
    # Cells in grey first, so that they hide no others; the rest in the given order.
    order = np.argsort((rgba[cells.rows] != to_rgba_array(MISSING)).any(axis=1), kind="stable")
    x, y = cells.xy[order].T
    many = len(x) > 2000  # as vectors, the PDF would be too large
    ax.scatter(x, y, s=size**2, c=rgba[cells.rows[order]], linewidths=0, rasterized=many)
    low, high = cells.box
    (cx, cy), (half_w, half_h) = (low + high) / 2, (extent[0] / 2, extent[1] / 2)
    ax.set_xlim(cx - half_w, cx + half_w)
    ax.set_ylim(cy + half_h, cy - half_h)
    ax.set_aspect("equal")
    ax.set_axis_off()
    middle, half = np.array([cx, cy]), np.array([half_w, half_h])
    if outside := int((np.abs(cells.xy - middle) > half).any(axis=1).sum()):
        text = f"{outside} cell{'s' if outside > 1 else ''} outside"
        ax.text(1, 0, text, transform=ax.transAxes, ha="right", va="top", fontsize=8, color="0.15")
    if um is not None:
        longest = 0.25 * extent[0] * um
        power = 10.0 ** np.floor(np.log10(longest))
        bar = power * max(m for m in (1, 2, 5) if m * power <= longest)
        label = f"{bar / 1000:g} mm" if bar >= 1000 else f"{bar:g} µm"
        across = ax.get_xaxis_transform()  # x in data units, y as a fraction of the panel
        start = cx - half_w
        style: dict[str, Any] = {"color": "0.15", "lw": 2, "solid_capstyle": "butt"}
        style["clip_on"] = False
        # Below the window, where there are no cells.
        lowered = across + ScaledTranslation(0, -0.09, ax.figure.dpi_scale_trans)
        ax.plot([start, start + bar / um], [0, 0], transform=lowered, **style)
        ax.text(
            start + (bar + 0.015 * extent[0] * um) / um,
            0,
            label,
            transform=lowered,
            va="center",
            fontsize=8,
            color="0.15",
        )


def legend_style(paint: Paint) -> dict[str, Any]:
    marks: dict[str, Any] = {"ls": "", "marker": "o", "ms": 7, "mew": 0}
    items = (paint.legend or {}).items()
    return {
        "handles": [Line2D([], [], **marks, color=c, label=fill(name, 30)) for name, c in items],
        "title": fill(paint.title, 30),
        "ncols": -(-len(items) // 24),
        "frameon": False,
        "fontsize": 9,
        "title_fontproperties": {"size": 9, "weight": "bold"},
        "alignment": "left",
        "handletextpad": 0.3,
        "borderaxespad": 0,
        "borderpad": 0,
    }


def cells_by_slice(adata: ad.AnnData, spatial_key: str, slice_key: str | None) -> dict[str, Cells]:
    """Return slices by name in natural order; a single slice without a key is named ``""``."""
    if adata.n_obs == 0:
        raise ValueError("adata has no cells: there is nothing to draw")
    xy = check_positions(adata, spatial_key)
    slices = label_slices(adata, xy, spatial_key, slice_key)
    rows = dict(zip(slices.names or [""], slices.rows(), strict=True))
    ordered = {name: rows[name] for name in natural_sort(rows) or rows}
    return {
        name: Cells(slice_rows, xy[slice_rows], _spacing(xy[slice_rows]))
        for name, slice_rows in ordered.items()
    }


def _spacing(xy: np.ndarray) -> float:
    """Return the side of a square with the mean area per cell, ignoring holes.

    It is estimated by the distance to the fourth neighbour, which is 1.00 to 1.08 times the side on
    square and hexagonal lattices and for random positions, unlike that to the nearest neighbour.
    """
    sites = np.unique(xy, axis=0)
    if len(sites) < 2:
        return 1.0
    nth = min(4, len(sites) - 1)
    sample = sites[:: max(1, len(sites) // 5000)]
    return float(np.median(cKDTree(sites).query(sample, k=[nth + 1])[0]))


def window(slices: dict[str, Cells]) -> tuple[float, float]:
    """Return the width and height of a window that fits each slice, markers included."""
    boxes = [cells.box for cells in slices.values()]
    sizes = np.array([high - low for low, high in boxes])
    sizes += 1.2 * np.array([[cells.spacing] for cells in slices.values()])
    width, height = sizes.max(axis=0)
    # A minimum size, for cells in a row.
    return float(max(width, 0.15 * height)), float(max(height, 0.15 * width))


def micrometres(adata: ad.AnnData) -> float | None:
    """Return the micrometres per unit of the coordinates, None if unknown."""
    return _MICROMETRES.get(str(adata.uns.get(Keys.UNIT)))


def write(ax: Axes, path: Path | None, **options: Any) -> None:
    """Write the figure of ``ax`` atomically; ``options`` are those of ``savefig``."""
    if path is None:
        return
    figure = ax.figure.canvas.figure  # the whole figure, if ax is in a subfigure
    # TrueType fonts: text stays text, which can be edited.
    fonts = rc_context({"pdf.fonttype": 42, "ps.fonttype": 42})
    with atomic_path(path) as temporary, fonts:
        figure.savefig(temporary, format=path.suffix[1:].lower(), **{**_SAVED, **options})
