"""Tables and pictures of results: a row a model, mean and spread, ranks, time, memory, size."""

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
_ACROSS = 5  # panels of a picture, at most
_KEPT = "task dataset split held_out apart splits model seed seconds peak_mib".split()


def report(
    folder: str | Path, output: str | Path | None = None, *, readme: str | Path | None = None
) -> str:
    """Write ``report.md``, its picture, ``report.png``, and one of each task, ``report-TASK.png``.

    A number is the mean over the splits of a data set of the mean over seeds; its spread is the
    standard deviation over seeds of the mean over splits, where there are two seeds or more. Of a
    model that has not answered all splits of a column there is no number there, but how many it
    has. The rank is the mean over columns, among models that have a number in each. Ranks and
    means over columns leave out those that leak and, beside real data sets, synthetic ones.

    Args:
        folder: Of :func:`stofm_geo.benchmark.run`.
        output: Folder to write to; ``None``: the same.
        readme: File in which what is between ``<!-- quality -->`` and ``<!-- /quality -->`` becomes
            the summary and its picture.

    Returns:
        The Markdown.

    Raises:
        FileNotFoundError: There are no results, or no ``readme``.
        ValueError: None of them is done, a file is no file of results, or ``readme`` lacks the two
            marks.
    """
    folder = Path(folder)
    output = folder if output is None else Path(output)
    output.mkdir(parents=True, exist_ok=True)
    rows = read_rows(folder)
    done = [row for row in rows if row["status"] == "done"]
    if not done:
        raise ValueError(f"{folder}: none of {len(rows)} cells is done; see their reasons there")
    frame = pd.DataFrame([_flat(row) for row in done])
    place = {task: number for number, task in enumerate(TASKS)}
    frame = frame.sort_values(
        "task", key=lambda task: task.map(place).fillna(len(place)), kind="stable"
    )
    frame["counts"] = frame["apart"] & ~_beside_real(frame)
    frame["column"] = frame["dataset"] + ", " + frame["held_out"]
    frame.loc[~frame["apart"], "column"] += " (leaks)"
    head = [_facts(rows, done), *_summary(frame, output)]
    parts = ["# Results", *head]
    for task in dict.fromkeys(frame["task"]):
        of_task = frame[frame["task"] == task]
        measure, more = main_of(of_task)
        mean, spread, text = table(of_task, measure, more)
        picture = f"{NAME}-{task}.png"
        _paint(mean, spread, f"{task}: {measure}", output / picture)
        arrow = "more is better" if more else "less is better"
        parts += [
            f"## {task}: {measure} ({arrow})",
            _markdown(_with_costs(text, ranks(of_task, mean, more), of_task)),
            f"![{task}]({picture})",
        ]
        parts += _others(of_task, mean, measure)
    parts += _failures(rows)
    text = "\n\n".join(parts) + "\n"
    with atomic_path(output / f"{NAME}.md") as temporary:
        temporary.write_text(text)
    if readme is not None:
        path = Path(os.path.relpath(output, Path(readme).parent), f"{NAME}.png").as_posix()
        head = [part.replace(f"]({NAME}.png)", f"]({path})") for part in head]
        replace_section(Path(readme), "quality", "\n\n".join(head))
    return text


def _summary(frame: pd.DataFrame, output: Path) -> list[str]:
    """Its table and its picture, where there is anything that counts."""
    text, means = summary(frame)
    if text.empty:
        return []
    _paint(means, means * np.nan, "Means over columns that count", output / f"{NAME}.png")
    return [_markdown(text), f"![summary]({NAME}.png)"]


def _beside_real(frame: pd.DataFrame) -> pd.Series:
    """Whether a cell is of a synthetic data set, and its task has others."""
    made_up = {name for name, dataset in DATASETS.items() if dataset.synthetic}
    real = ~frame["dataset"].isin(made_up)
    return ~real & real.groupby(frame["task"]).transform("any")


def summary(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per model with each task's mean over counted columns, text and numbers.

    Of a model without all of them, how many it has. Best first, by the mean rank over tasks, of
    models with the same tasks; those with most tasks first. A rank is among all models that have
    the task whole.
    """
    texts, means, order = {}, {}, {}
    for task, of_task in frame[frame["counts"]].groupby("task", sort=False):
        measure, more = main_of(of_task)
        mean, _, _ = table(of_task, measure, more)
        has, name = mean.notna().sum(axis=1), f"{task} ({measure} {'↑' if more else '↓'})"
        means[name] = mean.mean(axis=1).where(has == mean.shape[1])
        order[name] = means[name].rank(ascending=not more)
        some = has.map(lambda n, of=mean.shape[1]: f"{n} of {of}" if n else "")
        text = means[name].map("{:.3f}".format).where(means[name].notna(), some)
        best = means[name].max() if more else means[name].min()
        texts[name] = text.where(means[name] != best, "**" + text + "**")
    ranks = pd.DataFrame(order)
    keys = pd.DataFrame({"tasks": -ranks.notna().sum(axis=1), "rank": ranks.mean(axis=1)})
    keys = keys[keys["tasks"] < 0].sort_values(["tasks", "rank"], kind="stable")
    found = pd.DataFrame(texts).reindex(keys.index).fillna("")
    found = _with_costs(found, keys["rank"], frame)
    return found, pd.DataFrame(means).reindex(keys.index)


def main_of(frame: pd.DataFrame) -> tuple[str, bool]:
    """Return the measure of a task that tables show, and whether more is better.

    Of a task whose scores are its own, the first; more is better.
    """
    mains = (main for main in MAIN.values() if main[0] in frame and frame[main[0]].notna().any())
    return next(mains, (_scores(frame)[0], True))


def _scores(frame: pd.DataFrame) -> list[str]:
    known = {*_KEPT, "column", "counts", "parameters"}
    return [name for name in frame.dropna(axis=1, how="all") if name not in known]


def table(
    frame: pd.DataFrame, measure: str, more: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean, spread and text, ``[models, columns]`` each; NaN where splits are missing.

    Best first, by rank; after those that have all columns the others, by the first.
    """
    splits = frame.groupby("column")["splits"].max()
    each = frame.groupby(["model", "column", "split"])[measure].mean()
    found = each.groupby(["model", "column"]).agg(["mean", "size"])
    whole = found["size"] == found.index.get_level_values("column").map(splits)
    mean = found["mean"].where(whole).unstack()
    seeds = frame.groupby(["model", "column", "seed"])[measure].agg(["mean", "size"])
    seeds = seeds[seeds["size"] == seeds.index.get_level_values("column").map(splits)]
    spread = (
        seeds["mean"]
        .groupby(["model", "column"])
        .agg(lambda values: values.std(ddof=1) if len(values) > 1 else np.nan)
    )
    spread = spread.unstack().reindex(index=mean.index, columns=mean.columns)
    columns = _columns(frame)
    first = mean[columns[0]].sort_values(ascending=not more, kind="stable").index
    order = ranks(frame, mean, more).loc[first].sort_values(kind="stable").index
    mean, spread = mean.loc[order, columns], spread.loc[order, columns]
    text = mean.copy().astype(object)
    for model in order:
        for column in columns:
            value, off = mean.loc[model, column], spread.loc[model, column]
            here = found["size"].get((model, column), 0)
            if np.isnan(value):
                text.loc[model, column] = f"{int(here)} of {splits[column]}" if here else ""
            else:
                text.loc[model, column] = f"{value:.3f}" + (
                    "" if np.isnan(off) else f" ± {off:.3f}"
                )
    return mean, spread, text


def ranks(frame: pd.DataFrame, mean: pd.DataFrame, more: bool) -> pd.Series:
    """Mean over columns that count, of models that have a number in each; else NaN."""
    fair = mean[_columns(frame[frame["counts"]] if frame["counts"].any() else frame)]
    return fair.dropna().rank(ascending=not more).mean(axis=1).reindex(mean.index)


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
    by = frame.groupby("model")
    text = text.assign(
        rank=rank,
        seconds=by["seconds"].median(),
        MiB=by["peak_mib"].max(),
        parameters=by["parameters"].max(),
    )
    for name, form in (("rank", "{:.1f}"), ("MiB", "{:.0f}")):
        text[name] = text[name].map(form.format).replace("nan", "")
    text["seconds"] = text["seconds"].map(lambda s: f"{s:.0f}" if s >= 10 else f"{s:.1f}")
    text["parameters"] = text["parameters"].map(lambda n: "" if np.isnan(n) else f"{n:,.0f}")
    return text


def _others(frame: pd.DataFrame, mean: pd.DataFrame, measure: str) -> list[str]:
    """Return the other scores of complete models, means over the columns that count."""
    fair = frame[frame["counts"]]
    whole = mean[_columns(fair)].dropna().index
    names = [name for name in _scores(fair) if name != measure]
    each = fair.groupby(["model", "column", "split"])[names].mean()
    found = each.groupby(["model", "column"]).mean().groupby("model").mean().reindex(whole)
    if found.empty or not names:
        return []
    return [
        "Other scores, mean over columns that count:",
        _markdown(found.map(lambda value: f"{value:.3f}")),
    ]


def _markdown(frame: pd.DataFrame) -> str:
    lines = ["| | " + " | ".join(map(str, frame.columns)) + " |"]
    lines.append("|---|" + "---|" * frame.shape[1])
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


def _facts(rows: list[dict[str, Any]], done: list[dict[str, Any]]) -> str:
    def of(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in done}))

    minutes = sum(row["seconds"] for row in done) / 60
    return (
        f"{len(done)} cells done, {len(rows) - len(done)} failed; {minutes:.0f} "
        f"minutes on one core. Dates: {of('date')}. Machine: {of('machine')}, Python "
        f"{of('python')}. "
        f"{_commits(done)}. Mean over splits and seeds ± standard deviation over seeds; "
        "times are medians, memory is the most of any cell. *Random cells* are scored with their "
        "neighbours' labels known: that column shows what such a split hides, and counts in no "
        "mean or rank; nor does synthetic tissue beside real slices."
    )


def _commits(done: list[dict[str, Any]]) -> str:
    """Those few that there are, or the last of many."""
    found = list(dict.fromkeys(row["commit"] for row in done))
    if len(found) <= 3:
        return f"Commits: {', '.join(found)}"
    return f"Commits: {len(found)}, the last {found[-1]}; each row of cells.jsonl has its own"


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


def _paint(mean: pd.DataFrame, spread: pd.DataFrame, title: str, path: Path) -> None:
    """Draw one panel per column, one dot per model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [column for column in mean if mean[column].notna().any()]
    down = -(-len(columns) // _ACROSS)
    across = -(-len(columns) // down)
    size = 3.0 + 2.4 * across, 1.2 + down * (0.6 + 0.21 * len(mean))
    figure = Figure(size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    y = np.arange(len(mean))[::-1]
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
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
