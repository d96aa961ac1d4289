"""Macros of the pages: numbers from the committed results, and the reference of the command line.

Numbers on the site are computed from ``benchmarks/results`` when it is built, so that they are
those of the records.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from typer.cli import get_docs_for_click

from stofm_geo.benchmark import reporting
from stofm_geo.benchmark.records import read_rows
from stofm_geo.cli import app

_DIRECTION = (  # question, folder, task, split
    ("digits as superpixels, rotated: accuracy ↑", "geometry", "superpixels", "images"),
    ("displacements of charged particles, 10 000 systems: error ↓", "geometry", "particles",
     "10000 systems"),
    ("regions of tissue: macro-F1 ↑", "quality", "regions", None),
    ("cell types: macro-F1 ↑", "quality", "cell_types", None),
)  # fmt: skip
_KINDS = {
    "distances": ("EGNN", "SE2TransformerConv"),
    "coordinates, rotated copies": (
        "GATv2 (coordinates + rotations)",
        "TransformerConv (coordinates + rotations)",
    ),
    "vectors": ("SE2TransformerConv (vectors)",),
}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def define_env(env: Any) -> None:
    """Register the macros (called by mkdocs-macros)."""
    for macro in (
        summary, scores, mean, costs, direction_table, runs, zero_shot, speed_report, command_line
    ):  # fmt: skip
        env.macro(macro)


@cache
def _done(folder: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(RESULTS / folder) if row["status"] == "done"]


@cache
def _frame(folder: str) -> pd.DataFrame:
    return reporting.to_frame(_done(folder))


def summary(folder: str) -> str:
    """Return the table of means over the columns of each task."""
    text, _ = reporting.summary(_frame(folder))
    return reporting.to_markdown(text)


def scores(
    folder: str,
    task: str,
    measure: str | None = None,
    columns: tuple[str, ...] | list[str] = (),
    by: str = "column",
) -> str:
    """Return the table of one score of a task: models by data sets, or by splits.

    Args:
        folder: Of the results.
        task: Name of the task.
        measure: Name of the score; ``None``: the main one.
        columns: Names of the data sets; all if there are none.
        by: ``"column"`` or ``"split"``.
    """
    frame = _frame(folder)
    frame = frame[frame["task"] == task]
    if by == "split":  # one column per split
        frame = frame.assign(column=frame["split"], splits=1)
    if columns:
        frame = frame[frame["dataset"].isin(columns)]
    # Models are in the order of the main measure: of the others, it is not known which is better.
    main, higher_is_better = reporting.main_measure(frame)
    order = reporting.table(frame, main, higher_is_better)[0].index
    means, _, text = reporting.table(frame, measure or main, higher_is_better)
    means, text = means.loc[order], text.loc[order]
    counted = means[[c for c in means if not c.endswith("(leaks)")]]
    text["mean"] = counted.mean(axis=1, skipna=False).map("{:.3f}".format).replace("nan", "")
    return reporting.to_markdown(text)


def mean(folder: str, task: str, model: str) -> str:
    """Return the mean over the columns of a task that count, with three digits."""
    return f"{_means(folder, task)[model]:.3f}"


def readme_table() -> str:
    """Return the table of the README: our model, neighbour averages, and the best other model."""
    columns = {
        "regions": "Regions, macro-F1 ↑",
        "cell_types": "Cell types, macro-F1 ↑",
        "domains": "Domains, adjusted Rand index ↑",
        "deconvolution": "Deconvolution, RMSE ↓",
        "imputation": "Imputation, correlation ↑",
    }
    lines = ["| | SToFM | neighbour averages | best other |", "|---|---|---|---|"]
    for task, title in columns.items():
        others = pd.concat([_means(folder, task) for folder in ("tasks", "quality")])
        named = others.index.str.lower()
        others = others[~named.str.contains("stofm") & ~named.str.contains("averaged")]
        lower = title.endswith("↓")
        name, best = (others.idxmin(), others.min()) if lower else (others.idxmax(), others.max())
        ours, averages = (
            mean("tasks", task, model) for model in ("SToFM", "neighbour-averaged PCA")
        )
        lines.append(f"| {title} | {ours} | {averages} | {best:.3f} ({name}) |")
    return "\n".join(lines)


def costs(folder: str, task: str) -> str:
    """Return processor seconds of training, graphs a second and memory of each model of a task."""
    rows = [
        {"model": row["model"], "MiB": row["peak_mib"], **row["record"]}
        for row in _done(folder)
        if row["task"] == task and "training_cpu_seconds" in row["record"]
    ]
    names = {"training_cpu_seconds": "seconds of training", "graphs_per_cpu_second": "graphs/s"}
    table = pd.DataFrame(rows).rename(columns=names).groupby("model")[[*names.values(), "MiB"]]
    means = table.mean().sort_values("seconds of training")
    return reporting.to_markdown(means.map("{:.0f}".format))


def direction_table() -> str:
    """Return what distances, coordinates and vectors achieve: the best layer of each kind."""
    lines = [f"| | {' | '.join(_KINDS)} |", "|---" * (len(_KINDS) + 1) + "|"]
    for question, folder, task, split in _DIRECTION:
        frame = _frame(folder)
        frame = frame[(frame["task"] == task) & frame["counts"]]
        if split is not None:
            frame = frame[frame["split"] == split].assign(splits=1)
        main, higher_is_better = reporting.main_measure(frame)
        means, _, text = reporting.table(frame, main, higher_is_better)
        means = means.mean(axis=1, skipna=False).dropna()
        cells = []
        for kind in _KINDS.values():
            known = means.reindex(kind).dropna()
            if known.empty:
                cells.append("")
                continue
            best = known.idxmax() if higher_is_better else known.idxmin()
            score = text.loc[best].iloc[0] if text.shape[1] == 1 else f"{known[best]:.3f}"
            cells.append(f"{score} ({best.partition(' (')[0]})")
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _means(folder: str, task: str) -> pd.Series:
    """Return the mean of each model that has all columns of a task that count."""
    frame = _frame(folder)
    frame = frame[(frame["task"] == task) & frame["counts"]]
    means, _, _ = reporting.table(frame, *reporting.main_measure(frame))
    return means.mean(axis=1, skipna=False).dropna()


def runs(folder: str) -> str:
    """Return how many cells a folder of results has, their dates, commits and machine."""
    rows = _done(folder)
    dates = sorted(row["date"] for row in rows)
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    link = f"`benchmarks/results/{folder}/cells.jsonl`"
    return f"{len(rows)} runs, {span}, {machines}, commits {', '.join(commits)}. Record: {link}."


def zero_shot() -> str:
    """Return the table of probes on slices the installed model has not seen."""
    scores = json.loads((RESULTS / "zero_shot.json").read_text())["macro_f1"]
    table = pd.DataFrame(
        {
            column: {
                name: np.mean([np.mean(seed) for seed in seeds]) for name, seeds in own.items()
            }
            for column, own in scores.items()
        }
    )
    table["mean"] = table.mean(axis=1)
    return reporting.to_markdown(table.map("{:.3f}".format))


def speed_report() -> str:
    """Return the report of speed without its title, with headings one level deeper."""
    text = (RESULTS / "speed" / "report.md").read_text().partition("\n")[2]
    text = text.replace("](report", "](results/speed/report")
    return "\n".join(f"#{line}" if line.startswith("##") else line for line in text.split("\n"))


def command_line() -> str:
    """Return the reference of ``stofm-geo``, made from the commands themselves."""
    command = typer.main.get_command(app)
    pages = get_docs_for_click(obj=command, ctx=typer.Context(command), name="stofm-geo")
    return pages.partition("\n")[2]  # the page has a title of its own
