"""``python -m benchmarks.speed``: how fast the library is, measured and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.speed import _report, _runner
from benchmarks.speed._measurements import NAMES, Given
from benchmarks.speed.against import compare
from benchmarks.speed.gpu import measure
from stofm_geo.benchmark.records import write_result
from stofm_geo.cli.output import cli_errors

app = typer.Typer(
    help="How fast the library is, and in how much memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
@cli_errors
def run(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for one JSON file a measurement.")
    ],
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(NAMES)}; without, all.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of .h5ad files (corpus, tokens).", exists=True, file_okay=False),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Geneformer's dictionaries (tokens).", exists=True, file_okay=False),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Checkout of PharMolix/SToFM (encoder, subslices).", exists=True, file_okay=False
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it work?")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure what is there, too.")] = False,
    limit: Annotated[
        float, typer.Option(help="Seconds after which a measurement has failed.", min=1)
    ] = 3600,
) -> None:
    """Make measurements, each in a process of its own.

    What is there already is kept. One that fails is told, the others are made, and the exit status
    is 1. What needs something that is not here is left out. As many threads are used as PyTorch
    takes; OMP_NUM_THREADS says otherwise.
    """
    given = Given(quick, data, vocabulary, reference)
    _runner.run(names or NAMES, output, given, limit=limit, again=again)


@app.command()
@cli_errors
def report(
    folder: Annotated[Path, typer.Argument(help="What run wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .md file.", show_default="report.md in FOLDER"),
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option(help="File that gets the summary and the picture, between its marks."),
    ] = None,
) -> None:
    """Write one report of all measurements: Markdown, and a picture (.png) beside it."""
    file = output or folder / "report.md"
    _report.report(folder, file, readme)
    print(f"{file}, {file.with_suffix('.png').name}")


@app.command()
@cli_errors
def against(
    checkout: Annotated[
        Path, typer.Argument(help="Root of another checkout (git worktree add).", exists=True)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .json file.")],
    rounds: Annotated[int, typer.Option(help="Runs of each work.", min=2)] = 31,
) -> None:
    """Compare layers, stack and attention with another checkout's, in turns."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_result(compare(checkout, rounds), output)
    print(str(output))


@app.command()
@cli_errors
def gpu(
    output: Annotated[Path, typer.Option("-o", "--output", help="A .json file.")],
    device: Annotated[str, typer.Option(help="cuda, or cpu to try this command.")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: does it work?")] = False,
) -> None:
    """Time attention and layers on a GPU, beside PyG's."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_result(measure(device, quick), output)
    print(str(output))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.speed")
