"""How commands speak."""

from __future__ import annotations

import json
import subprocess
import sys

import typer
from typer.testing import CliRunner

from stofm_geo.cli.output import cli_errors, echo, record


def test_a_command_goes_on_where_nobody_reads_any_more() -> None:
    script = (
        "import sys\n"
        "from rich.console import Console\n"
        "from stofm_geo.cli.output import cli_errors, echo\n"
        "@cli_errors\n"
        "def command():\n"
        "    echo('first')\n"
        "    sys.stdin.readline()\n"
        "    Console().print('of another library')\n"
        "    print('of a third', flush=True)\n"
        "    echo('last')\n"
        "    print('done', file=sys.stderr)\n"
        "command()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout.readline() == "first\n"
        run.stdout.close()
        run.stdin.write("\n")
        run.stdin.close()
        assert run.stderr.read() == "done\n"
    assert run.returncode == 0


def app(command) -> typer.Typer:
    made = typer.Typer()
    made.command()(cli_errors(command))
    return made


def test_json_is_one_object_and_lines_go_to_standard_error() -> None:
    def command(fail: bool = False) -> None:
        echo("working")
        print("of a library")
        record(files={"a": {"cells": 3}}, seconds=1.5)
        record(files={"a": {"ari": 0.5}, "b": {"cells": 4}})
        if fail:
            raise KeyError("no such\nkey")

    result = CliRunner().invoke(app(command), ["--json"])
    assert result.exit_code == 0 and result.stderr == "working\nof a library\n"
    assert json.loads(result.stdout) == {
        "files": {"a": {"cells": 3, "ari": 0.5}, "b": {"cells": 4}},
        "seconds": 1.5,
    }
    result = CliRunner().invoke(app(command), ["--json", "--fail"])
    assert result.exit_code == 1 and json.loads(result.stdout)["error"] == "no such key"
    result = CliRunner().invoke(app(command), [])
    assert result.stdout == "working\nof a library\n" and result.stderr == ""
    assert CliRunner().invoke(app(command), ["--unknown"]).exit_code == 2
