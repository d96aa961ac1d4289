"""Tables and figures of results: scores, ranks, time, memory and size of each model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stofm_geo._files import atomic_path, replace_section
from stofm_geo.benchmark.datasets import DATASETS
from stofm_geo.benchmark.records import read_rows
from stofm_geo.benchmark.scoring import MAIN
from stofm_geo.benchmark.tasks import TASKS

NAME = "report"
_MAX_COLUMNS = 5  # of panels in a figure
_KEPT = "task dataset split held_out apart splits model seed seconds peak_mib".split()


def report(
    folder: str | Path, output: str | Path | None = None, *, readme: str | Path | None = None
) -> str:
    """Write ``report.md``, its figure ``report.png``, and a figure per task, ``report-TASK.png``.

    A score is the mean over the splits of a data set of the mean over seeds; its spread is the
    standard deviation over seeds of the mean over splits, if there are at least two seeds. If a
    model lacks splits of a column, the table gives their number instead of a score. The rank of a
    model is the mean over columns, among models with scores in all of them. Ranks and means over
    columns exclude splits that leak and, if a task has real data sets, synthetic ones.

    Args:
        folder: Folder of results of :func:`stofm_geo.benchmark.run`.
        output: Folder to write to; ``None``: ``folder``.
        readme: File whose text between ``<!-- quality -->`` and ``<!-- /quality -->`` is replaced
            by the summary and its figure.

    Returns:
        The report as Markdown.

    Raises:
        FileNotFoundError: There are no results, or no ``readme``.
        ValueError: No cell is done, a file holds no results, or ``readme`` lacks the two markers.

    Examples:
        >>> import tempfile
        >>> from stofm_geo import benchmark
        >>> cells = {"tasks": ["domains"], "datasets": ["toy"], "models": ["PCA"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = benchmark.run(folder, **cells, say=lambda line: None)
        ...     text = benchmark.report(folder)  # report.md, and its figures
        >>> text.splitlines()[0]
        '# Results'
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    output.mkdir(parents=True, exist_ok=True)
    rows = read_rows(folder)
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise ValueError(f"{folder}: none of {len(rows)} cells is done; see their reasons there")
    frame = to_frame(done)
    summary_sections = [_description(rows, done), *_summary(frame, output)]
    sections = ["# Results", *summary_sections]
    for task in dict.fromkeys(frame["task"]):
        task_frame = frame[frame["task"] == task]
        measure, higher_is_better = main_measure(task_frame)
        mean, spread, text = table(task_frame, measure, higher_is_better)
        figure = output / f"{NAME}-{task}.png"
        arrow = "more is better" if higher_is_better else "less is better"
        sections += [
            f"## {task}: {measure} ({arrow})",
            to_markdown(_with_costs(text, ranks(task_frame, mean, higher_is_better), task_frame)),
            *_draw(mean, spread, f"{task}: {measure}", figure, task),
        ]
        sections += _other_scores(task_frame, mean, measure)
    sections += _failures(rows)
    text = "\n\n".join(sections) + "\n"
    with atomic_path(output / f"{NAME}.md") as temporary:
        temporary.write_text(text)
    if readme is not None:
        path = Path(os.path.relpath(output, Path(readme).parent), f"{NAME}.png").as_posix()
        summary_sections = [
            section.replace(f"]({NAME}.png)", f"]({path})") for section in summary_sections
        ]
        replace_section(Path(readme), "quality", "\n\n".join(summary_sections))
    return text


def to_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per cell that is done, sorted by task, with its table column.

    Args:
        rows: Rows of ``cells.jsonl`` whose status is ``"done"``.

    Returns:
        Keys, scores and costs of the cells; ``column``, the column of the table of the task; and
        ``counts``, whether the column counts in ranks and means.
    """
    frame = pd.DataFrame([_flat(row) for row in rows])
    order = {task: number for number, task in enumerate(TASKS)}
    frame = frame.sort_values(
        "task", key=lambda task: task.map(order).fillna(len(order)), kind="stable"
    )
    frame["counts"] = frame["apart"] & ~_redundant_synthetic(frame)
    frame["column"] = frame["dataset"] + ", " + frame["held_out"]
    frame.loc[~frame["apart"], "column"] += " (leaks)"
    return frame


def _summary(frame: pd.DataFrame, output: Path) -> list[str]:
    """Return the table and the figure of the summary, if any column counts."""
    text, means = summary(frame)
    if text.empty:
        return []
    title, figure = "Means over columns that count", output / f"{NAME}.png"
    return [to_markdown(text), *_draw(means, means * np.nan, title, figure, "summary")]


def _redundant_synthetic(frame: pd.DataFrame) -> pd.Series:
    """Return the cells of synthetic data sets whose tasks also have real ones, ``[n]`` bool."""
    synthetic = {name for name, dataset in DATASETS.items() if dataset.synthetic}
    real = ~frame["dataset"].isin(synthetic)
    return ~real & real.groupby(frame["task"]).transform("any")


def summary(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per model with each task's mean over counted columns, text and numbers.

    If a model lacks columns, the table gives their number. Models are sorted by the number of
    complete tasks, then by mean rank over tasks; ranks are among models that are complete in the
    task.
    """
    texts, means, order = {}, {}, {}
    for task, task_frame in frame[frame["counts"]].groupby("task", sort=False):
        measure, higher_is_better = main_measure(task_frame)
        mean, _, _ = table(task_frame, measure, higher_is_better)
        complete_columns, name = (
            mean.notna().sum(axis=1),
            f"{task} ({measure} {'↑' if higher_is_better else '↓'})",
        )
        means[name] = mean.mean(axis=1).where(complete_columns == mean.shape[1])
        order[name] = means[name].rank(ascending=not higher_is_better)
        partial = complete_columns.map(lambda n, of=mean.shape[1]: f"{n} of {of}" if n else "")
        text = means[name].map("{:.3f}".format).where(means[name].notna(), partial)
        best = means[name].max() if higher_is_better else means[name].min()
        texts[name] = text.where(means[name] != best, "**" + text + "**")
    ranks = pd.DataFrame(order)
    keys = pd.DataFrame({"tasks": -ranks.notna().sum(axis=1), "rank": ranks.mean(axis=1)})
    keys = keys[keys["tasks"] < 0].sort_values(["tasks", "rank"], kind="stable")
    result = pd.DataFrame(texts).reindex(keys.index).fillna("")
    result = _with_costs(result, keys["rank"], frame)
    return result, pd.DataFrame(means).reindex(keys.index)


def main_measure(frame: pd.DataFrame) -> tuple[str, bool]:
    """Return the main measure of a task, and whether higher is better.

    If a task has none of the known measures, it is the first of its scores, and higher is better.
    """
    mains = (main for main in MAIN.values() if main[0] in frame and frame[main[0]].notna().any())
    return next(mains, (_scores(frame)[0], True))


def _scores(frame: pd.DataFrame) -> list[str]:
    known = {*_KEPT, "column", "counts", "parameters"}
    return [name for name in frame.dropna(axis=1, how="all") if name not in known]


def table(
    frame: pd.DataFrame, measure: str, higher_is_better: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return mean, spread and text, ``[models, columns]`` each; NaN where splits are missing.

    Models are sorted by rank; models without a rank follow, sorted by the first column.
    """
    splits = frame.groupby("column")["splits"].max()
    by_split = frame.groupby(["model", "column", "split"])[measure].mean()
    by_column = by_split.groupby(["model", "column"]).agg(["mean", "size"])
    complete = by_column["size"] == by_column.index.get_level_values("column").map(splits)
    mean = by_column["mean"].where(complete).unstack()
    seeds = frame.groupby(["model", "column", "seed"])[measure].agg(["mean", "size"])
    seeds = seeds[seeds["size"] == seeds.index.get_level_values("column").map(splits)]
    spread = (
        seeds["mean"]
        .groupby(["model", "column"])
        .agg(lambda values: values.std(ddof=1) if len(values) > 1 else np.nan)
    )
    spread = spread.unstack().reindex(index=mean.index, columns=mean.columns)
    columns = _columns(frame)
    first = mean[columns[0]].sort_values(ascending=not higher_is_better, kind="stable").index
    order = ranks(frame, mean, higher_is_better).loc[first].sort_values(kind="stable").index
    mean, spread = mean.loc[order, columns], spread.loc[order, columns]
    text = mean.copy().astype(object)
    for model in order:
        for column in columns:
            value, std = mean.loc[model, column], spread.loc[model, column]
            n_splits = by_column["size"].get((model, column), 0)
            if np.isnan(value):
                text.loc[model, column] = f"{int(n_splits)} of {splits[column]}" if n_splits else ""
            else:
                text.loc[model, column] = f"{value:.3f}" + (
                    "" if np.isnan(std) else f" ± {std:.3f}"
                )
    return mean, spread, text


def ranks(frame: pd.DataFrame, mean: pd.DataFrame, higher_is_better: bool) -> pd.Series:
    """Return mean ranks over the columns that count; NaN for models that lack one of them."""
    counted = mean[_columns(frame[frame["counts"]] if frame["counts"].any() else frame)]
    return counted.dropna().rank(ascending=not higher_is_better).mean(axis=1).reindex(mean.index)


def _columns(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["column"]))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    if missing := [key for key in _KEPT if key not in row]:
        raise ValueError(
            f"a row of {row['task']}, {row['model']} is of an older version, and has no "
            f"{', '.join(missing)}; run into another folder"
        )
    record = row.get("record") or {}
    return (
        {key: row[key] for key in _KEPT}
        | row["scores"]
        | {"parameters": record.get("parameters", np.nan)}
    )


def _with_costs(text: pd.DataFrame, rank: pd.Series, frame: pd.DataFrame) -> pd.DataFrame:
    """Add ranks, times, memory and sizes to a table."""
    by_model = frame.groupby("model")
    text = text.assign(
        rank=rank,
        seconds=by_model["seconds"].median(),
        MiB=by_model["peak_mib"].max(),
        parameters=by_model["parameters"].max(),
    )
    for name, number_format in (("rank", "{:.1f}"), ("MiB", "{:.0f}")):
        text[name] = text[name].map(number_format.format).replace("nan", "")
    text["seconds"] = text["seconds"].map(lambda s: f"{s:.0f}" if s >= 10 else f"{s:.1f}")
    text["parameters"] = text["parameters"].map(lambda n: "" if np.isnan(n) else f"{n:,.0f}")
    return text


def _other_scores(frame: pd.DataFrame, mean: pd.DataFrame, measure: str) -> list[str]:
    """Return the other scores of complete models, means over the columns that count."""
    counted = frame[frame["counts"]]
    complete = mean[_columns(counted)].dropna().index
    names = [name for name in _scores(counted) if name != measure]
    by_split = counted.groupby(["model", "column", "split"])[names].mean()
    means = by_split.groupby(["model", "column"]).mean().groupby("model").mean().reindex(complete)
    if means.empty or not names:
        return []
    return [
        "Other scores, mean over columns that count:",
        to_markdown(means.map(lambda value: f"{value:.3f}")),
    ]


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a table in Markdown, with the index as its first column."""
    lines = ["| | " + " | ".join(map(str, frame.columns)) + " |"]
    lines.append("|---|" + "---|" * frame.shape[1])
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


def _description(rows: list[dict[str, Any]], done: list[dict[str, Any]]) -> str:
    def values(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in done}))

    minutes = sum(row["seconds"] for row in done) / 60
    return (
        f"{len(done)} cells done, {len(rows) - len(done)} failed; {minutes:.0f} "
        f"minutes on one core. Dates: {values('date')}. Machine: {values('machine')}, Python "
        f"{values('python')}. "
        f"{_commits(done)}. Mean over splits and seeds ± standard deviation over seeds; "
        "times are medians, memory is the most of any cell. *Random cells* are scored with their "
        "neighbours' labels known: that column shows what such a split hides, and counts in no "
        "mean or rank; nor does synthetic tissue beside real slices."
    )


def _commits(done: list[dict[str, Any]]) -> str:
    """Return the commits if there are few, or else the last."""
    commits = list(dict.fromkeys(row["commit"] for row in done))
    if len(commits) <= 3:
        return f"Commits: {', '.join(commits)}"
    return f"Commits: {len(commits)}, the last {commits[-1]}; each row of cells.jsonl has its own"


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    failed = [row for row in rows if row["status"] != "done"]
    if not failed:
        return []
    lines = [
        "- "
        + ", ".join(str(row[k]) for k in ("task", "dataset", "split", "model") if row[k])
        + f", seed {row['seed']}: {row['reason']}"
        for row in failed
    ]
    return ["## What failed", "\n".join(lines)]


def _draw(mean: pd.DataFrame, spread: pd.DataFrame, title: str, path: Path, name: str) -> list[str]:
    """Draw one panel per column, one dot per model.

    Returns:
        The picture in Markdown; nothing if no model has all cells of a column.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [column for column in mean if mean[column].notna().any()]
    if not columns:
        path.unlink(missing_ok=True)  # of an earlier report
        return []
    n_rows = -(-len(columns) // _MAX_COLUMNS)
    n_columns = -(-len(columns) // n_rows)
    size = 3.0 + 2.4 * n_columns, 1.2 + n_rows * (0.6 + 0.21 * len(mean))
    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    y = np.arange(len(mean))[::-1]
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    for ax, column in zip(panels, columns, strict=False):
        ax.errorbar(mean[column], y, xerr=spread[column].fillna(0), fmt="o", ms=4, color="#1f6f8b")
        ax.set_title(column.replace(", ", "\n", 1), fontsize=8)
        ax.set_yticks(y, mean.index, fontsize=8)
        ax.tick_params(axis="x", labelsize=7)
        ax.locator_params(axis="x", nbins=5)
        ax.grid(axis="both", alpha=0.3)
    for ax in panels[len(columns) :]:
        ax.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return [f"![{name}]({path.name})"]
