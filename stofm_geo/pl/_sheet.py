"""A page of equal panels, one a slice, and how cells are drawn in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import anndata as ad
import numpy as np
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
from stofm_geo._slices import label_slices
from stofm_geo.pl._paint import MISSING, Paint

DPI = 200
_MICROMETRES = {"nm": 1e-3, "um": 1.0, "mm": 1e3}
_WIDEST, _HIGHEST, _LARGEST = 12.5, 7.0, 5.2  # inches: all panels together, and one panel's side
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
    """
    path, known = Path(path), sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"picture {str(path)!r} ends in {path.suffix!r}, which matplotlib cannot write: "
            f"use one of {', '.join('.' + name for name in known)}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"picture {str(path)!r}: there is no folder {str(path.parent)!r}, make it first"
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
        """Lowest and highest x and y, but for a few cells that lie far from all others.

        Far is more than the extent of the middle 98 % away from them, on either axis; a single
        such cell would leave the tissue a dot.
        """
        low, high = np.percentile(self.xy, [1, 99], axis=0)
        reach = np.maximum(high - low, self.spacing)
        inside = ((self.xy >= low - reach) & (self.xy <= high + reach)).all(axis=1)
        return self.xy[inside].min(axis=0), self.xy[inside].max(axis=0)


class Sheet:
    """A figure of equal panels, legends on its right, laid out in inches.

    Not by a layout engine: panels keep the shape of the tissue, the right column is as wide as its
    longest label, and the marker size is known before anything is drawn.
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

        # Fewest columns among equals; a panel below an inch shows nothing, so then the page grows.
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
        for at in np.ndindex(self.axes.shape):
            self.axes[at] = self._figure.add_axes((0, 0, 1, 1))

    def draw(
        self, ax: Axes, cells: Cells, rgba: np.ndarray, size: float | None, um: float | None
    ) -> None:
        um = um if ax is self.axes[0, 0] else None  # one scale for all panels, so one bar
        draw_cells(ax, cells, rgba, size, self.extent, self.points_per_unit, um)

    def finish(self, paints: list[Paint]) -> None:
        """Measure the legends, size the page to hold them, put everything in its place."""
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
        side = max((box.width / DPI for box in boxes), default=0.95 if bar else 0.0)
        stack = sum(box.height / DPI + 0.25 for box in boxes)
        head = _MARGIN + (0.35 if self._title else 0)
        panels_width = self._columns * per_group * self._step[0] - _GAP
        width = _MARGIN + panels_width + (side + 0.25 if side else 0) + _MARGIN
        height = max(head + rows * self._step[1], head + stack) + _MARGIN
        self._figure.set_size_inches(width, height)

        def place(left: float, top: float, w: float, h: float) -> tuple[float, float, float, float]:
            return left / width, 1 - (top + h) / height, w / width, h / height

        top = (height - _MARGIN + head - rows * self._step[1]) / 2 + _TITLE  # centred
        for (group, member), ax in np.ndenumerate(self.axes):
            row, column = divmod(group, self._columns)
            left = _MARGIN + (column * per_group + member) * self._step[0]
            ax.set_position(place(left, top + row * self._step[1], *self._panel))
        left = _MARGIN + panels_width + 0.25
        down = max(head, min(top, height - _MARGIN - stack))
        for legend, box in zip(legends, boxes, strict=True):
            legend.set_bbox_to_anchor((left / width, 1 - down / height))
            down += box.height / DPI + 0.25
        if bar is not None and bar.bar is not None:
            tall = min(3.0, 0.7 * self._panel[1])
            cax = self._figure.add_axes(place(left, top + (self._panel[1] - tall) / 2, 0.14, tall))
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
    # Grey cells first, so that they hide none that say something; the rest in the order given.
    order = np.argsort((rgba[cells.rows] != to_rgba_array(MISSING)).any(axis=1), kind="stable")
    x, y = cells.xy[order].T
    many = len(x) > 2000  # as vectors they make a PDF that no viewer opens
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
        across = ax.get_xaxis_transform()  # x in data units, y as a share of the panel
        start = cx - half_w
        style: dict[str, Any] = {"color": "0.15", "lw": 2, "solid_capstyle": "butt"}
        style["clip_on"] = False
        # Below the window, where no cell can lie.
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
    """Return slices by name in natural order; one named "" where no key tells them apart."""
    if adata.n_obs == 0:
        raise ValueError("adata has no cells: there is nothing to draw")
    xy = check_positions(adata, spatial_key)
    slices = label_slices(adata, xy, spatial_key, slice_key)
    rows = dict(zip(slices.names or [""], slices.rows(), strict=True))
    ordered = {name: rows[name] for name in natural_sort(rows) or rows}
    return {name: Cells(own, xy[own], _spacing(xy[own])) for name, own in ordered.items()}


def _spacing(xy: np.ndarray) -> float:
    """Side of the square a cell has to itself, where cells lie (holes do not count).

    The distance to the fourth neighbour is close to it (1.00 to 1.08 times) on square and hexagonal
    lattices as well as for cells thrown at random, which the nearest neighbour's is not.
    """
    places = np.unique(xy, axis=0)
    if len(places) < 2:
        return 1.0
    nth = min(4, len(places) - 1)
    sample = places[:: max(1, len(places) // 5000)]
    return float(np.median(cKDTree(places).query(sample, k=[nth + 1])[0]))


def window(slices: dict[str, Cells]) -> tuple[float, float]:
    """Return the width and height of a window that fits each slice, markers included."""
    boxes = [cells.box for cells in slices.values()]
    sizes = np.array([high - low for low, high in boxes])
    sizes += 1.2 * np.array([[cells.spacing] for cells in slices.values()])
    width, height = sizes.max(axis=0)
    # A row of cells still needs a panel that one can see.
    return float(max(width, 0.15 * height)), float(max(height, 0.15 * width))


def micrometres(adata: ad.AnnData) -> float | None:
    """Return the micrometres per unit of the coordinates, None if unknown."""
    return _MICROMETRES.get(str(adata.uns.get("spatial_unit")))


def write(ax: Axes, path: Path | None, **options: Any) -> None:
    """Write the figure of ``ax``, whole or not at all; options of ``savefig``."""
    if path is None:
        return
    figure = ax.figure.canvas.figure  # the whole, where ax lies in a subfigure
    options = {"dpi": DPI, "bbox_inches": "tight", **options}
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), **options)
