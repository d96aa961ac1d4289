"""How commands speak."""

from __future__ import annotations

import subprocess
import sys


def test_a_command_goes_on_where_nobody_reads_any_more() -> None:
    script = (
        "import sys\n"
        "from rich.console import Console\n"
        "from stofm_geo.cli._output import cli_errors, echo\n"
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
