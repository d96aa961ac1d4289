"""Two test examples of the tasks on graphs in the plane, with what our layer predicts.

``python -m benchmarks.quality.planar_examples -o benchmarks/results/geometry/examples.png``:
a digit of scikit-learn, upright and rotated, and a system of charged particles in a magnetic field
with true and predicted displacements. Models and budgets are those of the suite: some ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch_geometric.data import Data

from stofm_geo.benchmark import DATASETS, MODELS, TASKS

NAME = "SE2TransformerConv (vectors)"


def solved(task: str, dataset: str, split: str) -> tuple[list[list[Data]], list[np.ndarray]]:
    """Return the test graphs of a split, and predictions for them."""
    graphs = DATASETS[dataset].read(None)
    chosen = next(s for s in TASKS[task].splits(graphs, dataset) if s.name == split)
    problem, score = chosen.make()
    predictions, _ = MODELS[NAME].solve(problem, 0)
    print(task, score(predictions))
    return problem.test, predictions


def draw_graph(ax: Axes, data: Data, title: str) -> None:
    pos, edges = data.pos.numpy(), data.edge_index.t().numpy()
    ax.add_collection(LineCollection(pos[edges], colors="#b0b0b0", linewidths=0.5, zorder=1))
    ax.scatter(*pos.T, c=data.x[:, 0], cmap="gray_r", edgecolors="#606060", s=60, zorder=2)
    ax.set_title(title, fontsize=10)


def draw_particles(ax: Axes, data: Data, truth: np.ndarray, predicted: np.ndarray) -> None:
    pos, colors = data.pos.numpy(), np.where(data.x[:, 0] > 0, "#c1440e", "#1f6f8b")
    for start, true, found in zip(pos, truth, predicted, strict=True):
        ax.annotate("", start + true, start, arrowprops={"arrowstyle": "->", "color": "#b0b0b0"})
        ax.plot(*np.stack([start, start + found]).T, "k:", linewidth=1)
    ax.scatter(*pos.T, c=colors, s=40, zorder=2)
    ends = np.concatenate([pos, pos + truth, pos + predicted])
    ax.update_datalim(ends)
    ax.autoscale_view()
    ax.set_title("displacements: true (grey), predicted (dotted)", fontsize=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    figure = Figure((12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)

    (rotated, upright), (of_rotated, of_upright) = solved("superpixels", "digits", "images")
    draw_graph(panels[0], upright[0], f"upright: predicted {of_upright[0]}")
    draw_graph(panels[1], rotated[0], f"rotated: predicted {of_rotated[0]}")

    (_, systems), (_, predicted) = solved("particles", "particles", "1000 systems")
    truth = DATASETS["particles"].read(None)["test"]
    offsets = np.cumsum([0, *(data.num_nodes for data in systems)])
    index = next(i for i, data in enumerate(systems) if data.x[0, 1] == 1 and data.num_nodes > 9)
    rows = slice(offsets[index], offsets[index + 1])
    draw_particles(panels[2], systems[index], truth[index].y.numpy(), predicted[rows])
    for ax in panels:
        ax.set_aspect("equal")
        ax.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
