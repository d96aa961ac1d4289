"""The picture of the report: times over sizes, a panel a measurement."""

from __future__ import annotations

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.speed._section import Panel

# Okabe & Ito 2008 (https://jfly.uni-koeln.de/color): told apart with every colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = (("-", "o"), ("--", "s"))  # once all colours are taken, the next style
ACROSS, WIDTH, HEIGHT = 2, 6.6, 3.2  # panels beside each other; inches of one


def draw(panels: list[Panel], file: Path) -> None:
    """Write a PNG with a panel for each, logarithmic, its legend beside it.

    Args:
        panels: One or more; a line without points is not drawn.
        file: Ends in ``.png``.
    """
    down = -(-len(panels) // ACROSS)
    figure = Figure((ACROSS * WIDTH, down * HEIGHT), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, ACROSS, squeeze=False).flat
    for axes, panel in itertools.zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
        else:
            _fill(axes, panel)
    figure.savefig(file)


def _fill(axes: Axes, panel: Panel) -> None:
    drawn = {name: points for name, points in panel.lines.items() if points}
    looks = itertools.product(STYLES, COLOURS)
    for (name, points), ((style, marker), colour) in zip(drawn.items(), looks, strict=False):
        size, time = zip(*points, strict=True)
        width = 2.6 if name == "ours" else 1.4
        style = style if panel.joined else "none"
        axes.plot(size, time, ls=style, lw=width, marker=marker, ms=5, color=colour, label=name)
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log", yscale="log")
    axes.margins(0.08)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        # Powers of ten alone would leave a short axis without numbers.
        subs = (1,) if high > 30 * low else (1, 2, 5) if high > 8 * low else (1, 2, 3, 4, 6)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")


def _short(value: float, _: int) -> str:
    """Of an axis: 20k for 20 000, 1M for a million."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
