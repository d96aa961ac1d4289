"""``stofm-geo benchmark run | report | rerun | names``: the benchmark suite."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from stofm_geo.cli.output import cli_errors, echo

benchmark = typer.Typer(
    help="Benchmarks of layers and methods on eleven tasks with fixed splits.", no_args_is_help=True
)
Data = Annotated[Path | None, typer.Option(help="Folder of the data sets' files.")]
Load = Annotated[list[Path] | None, typer.Option(help="Python file that registers more; repeat.")]
Limit = Annotated[float, typer.Option(help="Time limit of a cell, in seconds.")]
_NAMES = "Comma-separated names. (default: all)"


@benchmark.command()
@cli_errors
def run(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the results.")],
    tasks: Annotated[str | None, typer.Option(help=_NAMES)] = None,
    models: Annotated[str | None, typer.Option(help=_NAMES)] = None,
    datasets: Annotated[str | None, typer.Option(help=_NAMES)] = None,
    data: Data = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of stochastic models.")] = 5,
    jobs: Annotated[int, typer.Option(help="Number of processes, one thread each.")] = 1,
    limit: Limit = 1800.0,
    load: Load = None,
) -> None:
    """Run the cells whose results are not yet in the folder."""
    from stofm_geo import benchmark as suite

    names = {"tasks": tasks, "models": models, "datasets": datasets}
    rows = suite.run(
        output,
        **{key: text and [name.strip() for name in text.split(",")] for key, text in names.items()},
        data=data,
        seeds=seeds,
        jobs=jobs,
        limit=limit,
        load=load or (),
        say=echo,
    )
    if failed := [row for row in rows if row["status"] == "failed"]:
        raise RuntimeError(f"{len(failed)} of {len(rows)} cells failed; see {output}")


@benchmark.command()
@cli_errors
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of the results.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder to write to. (default: the folder of the results)"
        ),
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="File that gets the first tables, between its marks.")
    ] = None,
) -> None:
    """Write tables and pictures of the results: report.md and a PNG for each task."""
    from stofm_geo import benchmark as suite

    suite.report(folder, output, readme=readme)
    echo(f"Wrote {(output or folder) / 'report.md'}")


@benchmark.command()
@cli_errors
def rerun(
    file: Annotated[Path, typer.Argument(help="File of results, .jsonl.")],
    line: Annotated[int, typer.Option(help="Line number, from 1.")],
    data: Data = None,
    limit: Limit = 1800.0,
    load: Load = None,
) -> None:
    """Run a cell of the table again from its line; exit with 1 if its scores differ."""
    from stofm_geo import benchmark as suite

    lines = file.read_text().splitlines()
    if not 1 <= line <= len(lines):
        raise ValueError(f"{file} has lines 1 to {len(lines)}; there is no {line}")
    row = json.loads(lines[line - 1])
    new = suite.rerun(row, data=data, limit=limit, load=load or ())
    echo(f"then: {row.get('scores', row.get('reason'))}")
    echo(f"now:  {new.get('scores', new.get('reason'))}")
    if new["status"] != row["status"]:
        raise RuntimeError(f"the status was {row['status']}, and is {new['status']} now")
    if row.get("scores") != new.get("scores"):
        raise RuntimeError("the scores differ")


@benchmark.command()
@cli_errors
def names(load: Load = None) -> None:
    """List tasks, data sets and models."""
    from stofm_geo import benchmark as suite
    from stofm_geo.benchmark.worker import run_files

    run_files(load or ())
    for name, task in suite.TASKS.items():
        echo(f"task {name}, on {', '.join(task.datasets)}")
    for name, dataset in suite.DATASETS.items():
        echo(f"data set {name}: {', '.join(dataset.files) or 'no files'}")
    for name, model in suite.MODELS.items():
        absent = model.needs and find_spec(model.needs) is None
        echo(f"model {name}" + f" (needs {model.needs}, which is not installed)" * bool(absent))
