"""Draw the figures of the documentation: ``python docs/_figures.py`` writes ``docs/assets``.

Each is drawn for light and for dark pages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

import stofm_geo
import stofm_geo.transforms as T
from stofm_geo.datasets import toy_tissue

ASSETS = Path(__file__).with_name("assets")
STYLES = {
    "light": {"text": "#263238", "box": "#e0f2f1", "line": "#90a4ae", "accent": "#00796b"},
    "dark": {"text": "#eceff1", "box": "#37474f", "line": "#78909c", "accent": "#4db6ac"},
}
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
Style = dict[str, str]


def _axes(width: float, height: float, columns: int = 1) -> tuple:
    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
    for ax in np.ravel(axes):
        ax.set_axis_off()
    return figure, axes


def _box(ax: plt.Axes, x: float, y: float, text: str, style: Style, width: float = 2.0) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.42), width, 0.84, "round,pad=0.02,rounding_size=0.12",
            facecolor=style["box"], edgecolor=style["line"],
        )
    )  # fmt: skip
    ax.text(x, y, text, ha="center", va="center", color=style["text"], fontsize=9)


def _arrow(ax: plt.Axes, start: tuple, end: tuple, style: Style, text: str = "") -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=style["line"])
    )
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    ax.text(x, y + 0.12, text, ha="center", va="bottom", color=style["text"], fontsize=8)


def architecture(style: Style) -> plt.Figure:
    """Draw what happens to a slice, and the packages that do it."""
    figure, ax = _axes(10, 3.2)
    steps = [
        ("AnnData\ncounts, positions", "data"),
        ("slices in\ncanonical pose", "data"),
        ("features\nof cells", "genes"),
        ("sub-slices with\nmacro nodes", "transforms"),
        ("SE(2) Transformer\non the edges", "networks, nn, ops"),
        ("embeddings", "models"),
    ]
    for number, (text, package) in enumerate(steps):
        x = 2.45 * number
        _box(ax, x, 1.6, text, style)
        ax.text(
            x, 2.25, package, ha="center", color=style["accent"], fontsize=8, family="monospace"
        )
        if number:
            _arrow(ax, (x - 1.42, 1.6), (x - 1.02, 1.6), style)
    tasks = ["domains", "labels", "deconvolution", "imputation", "denoising"]
    for number, text in enumerate(tasks):
        x = 2.45 * 5 - 2.25 * (len(tasks) - 1 - number)
        _box(ax, x, 0, text, style)
        _arrow(ax, (2.45 * 5, 1.16), (x, 0.46), style)
    ax.text(0, 0, "tasks, tl, pl", ha="left", color=style["accent"], fontsize=8, family="monospace")
    ax.set(xlim=(-1.2, 13.5), ylim=(-0.6, 2.6))
    return figure


def invariance(style: Style) -> plt.Figure:
    """Draw a slice, rotated and shifted, and the one graph that both give."""
    figure, axes = _axes(9, 3, 3)
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 10, (60, 2)) * [1.0, 0.6]
    angle = 0.8
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = pos @ rotation.T * 1.7 + [30, -10]
    graph = Compose([T.NormalizePositions(), T.SpatialKNN(k=4)])
    edges = [graph(_data(p)).edge_index for p in (pos, turned)]
    assert torch.equal(*(e[:, np.lexsort(e.numpy())] for e in edges))
    titles = ("a slice", "rotated, scaled, shifted", "the graph of both")
    for ax, p, title in zip(axes, (pos, turned, pos), titles, strict=True):
        if title.startswith("the"):
            for i, j in edges[0].T.tolist():
                ax.plot(*p[[i, j]].T, color=style["line"], lw=0.8, zorder=1)
        ax.scatter(*p.T, s=22, c=np.resize(COLORS, len(p)), zorder=2)
        ax.set_title(title, color=style["text"], fontsize=10)
        ax.set_aspect("equal")
    return figure


def subslices(style: Style) -> plt.Figure:
    """Draw a slice cut into sub-slices, and one of them with its halo and macro nodes."""
    figure, axes = _axes(9, 3.4, 2)
    data = stofm_geo.from_anndata(toy_tissue(900, 30, seed=0))
    data = Compose([T.NormalizePositions(), T.SpatialKNN(k=6), T.MacroNodes(max_nodes=5)])(data)
    parts = T.SubSlices(num_cells=200, halo=2)(data)
    pos = data.pos.numpy()
    chosen = parts[len(parts) // 2]
    for ax, title in zip(axes, ("core cells of each sub-slice", "one sub-slice"), strict=True):
        ax.set_title(title, color=style["text"], fontsize=10)
        ax.set_aspect("equal")
    for number, part in enumerate(parts):
        core = part.pos[part.core_mask].numpy()
        axes[0].scatter(*core.T, s=7, color=COLORS[number % len(COLORS)])
    cells = chosen.node_type == 0
    halo, core = (
        chosen.pos[cells & mask].numpy() for mask in (~chosen.core_mask, chosen.core_mask)
    )
    macro = chosen.pos[chosen.node_type == 2].numpy()
    axes[1].scatter(*pos.T, s=4, color=style["line"], alpha=0.35)
    axes[1].scatter(*halo.T, s=9, color=COLORS[1], label="halo")
    axes[1].scatter(*core.T, s=9, color=COLORS[0], label="core")
    axes[1].scatter(*macro.T, s=90, marker="h", color=COLORS[5], label="macro nodes")
    axes[1].legend(fontsize=8, frameon=False, labelcolor=style["text"], loc="lower left")
    return figure


def objectives(style: Style) -> plt.Figure:
    """Draw how molecules are split, and what is predicted from what."""
    figure, ax = _axes(9, 2.6)
    _box(ax, 1.2, 1.2, "molecules\nof a cell", style)
    _box(ax, 5, 2, "3/4: input", style)
    _box(ax, 5, 0.4, "1/4: target", style)
    _box(ax, 8.8, 2, "network, with the\ninputs of neighbours", style, width=2.8)
    _box(ax, 8.8, 0.4, "prediction", style)
    _arrow(ax, (2.25, 1.3), (3.95, 2), style, "split at random")
    _arrow(ax, (2.25, 1.1), (3.95, 0.4), style)
    _arrow(ax, (6.05, 2), (7.35, 2), style)
    _arrow(ax, (8.8, 1.54), (8.8, 0.86), style)
    _arrow(ax, (7.75, 0.4), (6.05, 0.4), style, "loss")
    ax.set(xlim=(0, 10.4), ylim=(-0.2, 2.6))
    return figure


def vectors(style: Style) -> plt.Figure:
    """Draw features that rotate with the positions, and those that do not change."""
    figure, axes = _axes(9, 3, 2)
    rng = np.random.default_rng(1)
    pos = np.stack(np.meshgrid([-1.5, 0, 1.5], [-1.5, 0, 1.5]), -1).reshape(-1, 2)
    pos = pos + rng.normal(scale=0.3, size=pos.shape)
    arrows = 0.35 * np.stack([np.cos(pos[:, 0] * 2), np.sin(pos[:, 1] * 2)], 1)
    for ax, angle in zip(axes, (0.0, 1.1), strict=True):
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        p, v = pos @ rotation.T, arrows @ rotation.T
        ax.quiver(
            *p.T, *v.T, color=style["accent"], angles="xy", scale_units="xy", scale=0.6, width=0.008
        )
        ax.scatter(*p.T, s=70, c=np.resize(COLORS, len(p)), zorder=3)
        ax.set_aspect("equal")
        ax.set(xlim=(-3, 3), ylim=(-3, 3))
    axes[0].set_title(
        "nodes: scalars (colours), vectors (arrows)", color=style["text"], fontsize=10
    )
    axes[1].set_title("rotated: vectors rotate, scalars stay", color=style["text"], fontsize=10)
    return figure


def _data(pos: np.ndarray) -> Data:
    return Data(pos=torch.from_numpy(pos), x=torch.zeros(len(pos), 1))


FIGURES: tuple[Callable[[Style], plt.Figure], ...] = (
    architecture, invariance, subslices, objectives, vectors,
)  # fmt: skip

if __name__ == "__main__":
    plt.rcParams["svg.hashsalt"] = "stofm_geo"
    for draw in FIGURES:
        for name, style in STYLES.items():
            figure = draw(style)
            path = ASSETS / f"{draw.__name__}-{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None})
            plt.close(figure)
            print(path)
