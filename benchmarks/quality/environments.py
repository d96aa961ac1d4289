"""Commands in hostile environments: each works, or says in one line why not, and loses nothing.

``python -m benchmarks.quality.environments -o benchmarks/results/environments.json``: every command
that writes, on toy tissue, over what it has written before, in each of :data:`ENVIRONMENTS`. What
came of it:

- ``works``: exit code 0, and all is as it is elsewhere;
- ``clear``: another exit code, one line that tells why, and what was there is there still;
- ``traceback``, ``silent`` (neither done nor told), ``hang``, ``half-written``.

An environment is set up before anything is imported; commands are forked in it. Resumable:
environments that the output has are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quality import _trials
from benchmarks.quality._commands import COMMANDS, import_all, leftovers, state
from stofm_geo.benchmark.records import environment, write_result

GOOD = ("works", "clear")
SMALL, LEFT = 2 * 2**20, 2**16  # bytes of a small disk, and those that are free at most
ORDINARY = "ordinary"


@dataclass(frozen=True)
class Environment:
    """Where commands run.

    Args:
        what: In a few words.
        start: Called before anything is imported.
        variables: Of the environment; ``None``: not set.
        plain: Even root may not do what the rights of files forbid.
        folder: Name of the folder to write into.
        each: Called in the process of each command.
        fresh: Each command imports anew, after ``each``.
        at_once: Processes that run the same.
    """

    what: str
    start: Callable[[], None] = lambda: None
    variables: dict[str, str | None] = field(default_factory=dict)
    plain: bool = False
    folder: str = "out"
    each: Callable[[], None] = lambda: None
    fresh: bool = False
    at_once: int = 1


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def _read_one_line() -> None:
    """Standard output is a pipe, ``| head -1``."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        while (got := os.read(reading, 1)) and got != b"\n":
            pass
        os._exit(0)
    os.close(reading)
    os.dup2(writing, 1)
    os.close(writing)


ENVIRONMENTS = {
    ORDINARY: Environment("nothing unusual"),
    "small disk": Environment("a tmpfs of 2 MB, of which 64 kB are free"),
    "read-only": Environment("folders that may not be written", plain=True),
    "no HOME": Environment("HOME is not set", variables={"HOME": None}),
    "no home": Environment("HOME is a folder that is not there", variables={"HOME": "/no/home"}),
    "LC_ALL=C": Environment(
        "no language, output in größe/", variables={"LC_ALL": "C"}, folder="größe"
    ),
    "no stdin": Environment("standard input is closed", start=lambda: os.close(0)),
    "head": Environment("standard output is closed after a line", each=_read_one_line),
    "few files": Environment("64 open files", start=_limit(resource.RLIMIT_NOFILE, 64)),
    "3 GB": Environment(
        "3 GB of address space", each=_limit(resource.RLIMIT_AS, 3 * 10**9), fresh=True
    ),
    "two at once": Environment("two processes that write the same", at_once=2),
    "narrow": Environment("a terminal of 20 columns", variables={"COLUMNS": "20"}),
}


def run_within(name: str, work: Path, commands: list[str]) -> list[dict[str, Any]]:
    """Run commands in an environment that this process is in."""
    import_all()
    rows = []
    for command in commands:
        rows.append(_one(name, command, work))
        print(f"{name}: {command}: {rows[-1]['came']}", flush=True)
    return rows


def _one(name: str, command: str, work: Path) -> dict[str, Any]:
    given, asked, log = ENVIRONMENTS[name], COMMANDS[command], work / name / "log"
    out = work / name / given.folder
    before, expected = work / ORDINARY / "before" / command, work / ORDINARY / f"{command}.json"
    words = asked.words(work / "inputs", out, True)
    _empty(out)
    if name == ORDINARY:
        stop = _trials.signal_at(15, asked.stages["fitting"]) if asked.trains else lambda: None
        _trials.run(asked.words(work / "inputs", out, False), log, stop)
        shutil.copytree(out, before)
    else:
        _copy(before, out, small=name == "small disk")
    old = _trials.forked(lambda: state(asked, out), log)
    if name == "read-only":
        _chmod(out, 0o555)
    logs = [log.with_suffix(f".{i}") for i in range(given.at_once)]

    def run() -> None:
        given.each()
        if given.fresh:
            script = f"from benchmarks.quality._commands import typed; typed({words!r})"
            os.execv(sys.executable, [sys.executable, "-c", script])
        _trials.typed(words)

    started = [_trials.start(run, one) for one in logs]
    ends = [_trials.wait(process, one) for process, one in zip(started, logs, strict=True)]
    if name == "read-only":
        _chmod(out, 0o755)
    elif name == "small disk":
        (out / "filled").unlink()
    now = _trials.forked(lambda: state(asked, out), log)
    if name == ORDINARY:
        expected.write_text(json.dumps(now))
    new = json.loads(expected.read_text())
    came = [_class(end, asked.trains, old, now, new) for end in ends]
    if left := leftovers(out):
        came[0] = f"half-written: {left}"
    return {
        "environment": name,
        "command": command,
        "came": " + ".join(came),
        "codes": [end.code for end in ends],
        "said": [_last(end.text) for end in ends],
        "seconds": max(end.seconds for end in ends),
    }


def _class(
    end: _trials.End, trains: bool, old: dict[str, str], now: dict[str, str], new: dict[str, str]
) -> str:
    if end.code is None:
        return "hang"
    for unit, digest in now.items():
        between = trains and not digest.startswith(("absent", "damaged"))
        if digest not in (old[unit], new[unit]) and not between:
            return f"half-written: {unit}: {digest}"
    if "Traceback" in end.text:
        return "traceback"
    if end.code == 0:
        return "works" if now == new else "silent"
    told = [line for line in end.text.splitlines() if line.startswith("Error:")]
    return "clear" if len(told) == 1 else "silent"


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Error:")]
    return (told or lines or [""])[-1][:300]


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _copy(before: Path, out: Path, small: bool) -> None:
    """What was there; on a small disk, as much as fits, and something that fills it up."""
    for entry in sorted(before.iterdir()):
        files = [entry] if entry.is_file() else [file for file in entry.rglob("*")]
        if small and sum(file.stat().st_size for file in files) > shutil.disk_usage(out).free:
            continue
        if entry.is_dir():
            shutil.copytree(entry, out / entry.name)
        else:
            shutil.copy2(entry, out / entry.name)
    if small:
        size = max(shutil.disk_usage(out).free - LEFT, 0)
        (out / "filled").write_bytes(bytes(size))


def _chmod(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)


def _in_process_of_its_own(name: str, work: Path, commands: list[str]) -> list[dict[str, Any]]:
    given, answer = ENVIRONMENTS[name], work / name / "rows.json"
    variables = {**os.environ, **given.variables}
    words = [sys.executable, "-m", "benchmarks.quality.environments", "--within", name, str(work)]
    words += ["--commands", *commands]
    if given.plain and os.getuid() == 0:
        words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *words]
    run = subprocess.run(
        words,
        env={key: value for key, value in variables.items() if value is not None},
        preexec_fn=given.start,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{name}: the process of this environment ended with {run.returncode}")
    return json.loads(answer.read_text())


def tried(name: str, work: Path, commands: list[str]) -> list[dict[str, Any]]:
    """Rows of an environment; one with a reason, where it cannot be had."""
    folder = work / name
    folder.mkdir()
    if ENVIRONMENTS[name].plain and os.getuid() == 0 and shutil.which("setpriv") is None:
        return [_skipped(name, "root writes anywhere, and there is no setpriv")]
    if name != "small disk":
        return _in_process_of_its_own(name, work, commands)
    (folder / "out").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder / "out")]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        return [_skipped(name, f"not mounted: {mounted.stderr.strip()}")]
    try:
        return _in_process_of_its_own(name, work, commands)
    finally:
        subprocess.run(["umount", str(folder / "out")], check=True)


def _skipped(name: str, reason: str) -> dict[str, Any]:
    return {"environment": name, "command": "all", "came": "skipped", "said": [reason]}


def table(rows: list[dict[str, Any]]) -> str:
    """Environments, and what came of each command there."""
    came: dict[str, dict[str, str]] = {}
    for row in rows:
        kinds = [part.split(":")[0] for part in row["came"].split(" + ")]
        came.setdefault(row["environment"], {})[row["command"]] = "+".join(kinds)
    lines = [["", *COMMANDS]]
    lines += [
        [name, *(of.get(one, of.get("all", "")) for one in COMMANDS)] for name, of in came.items()
    ]
    widths = [max(len(line[i]) for line in lines) + 2 for i in range(len(lines[0]))]
    return "\n".join(
        "".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--environments", nargs="+", choices=ENVIRONMENTS)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--quick", action="store_true", help="nothing unusual, and no input")
    parser.add_argument("--within", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.within:
        name, work = options.within[0], Path(options.within[1])
        found = run_within(name, work, options.commands)
        (work / name / "rows.json").write_text(json.dumps(found))
        return
    if options.output is None:
        parser.error("name a file for what came of it, -o FILE")
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    done = {row["environment"] for row in rows} - {ORDINARY}
    rows = [row for row in rows if row["environment"] != ORDINARY]
    names = [ORDINARY, "no stdin"] if options.quick else options.environments or ENVIRONMENTS
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = "import sys; from benchmarks.quality import _commands; from pathlib import Path; "
        made += "_commands.make_inputs(Path(sys.argv[1]) / 'inputs')"
        subprocess.run([sys.executable, "-c", made, folder], check=True)
        for name in dict.fromkeys([ORDINARY, *names]):
            if name in done:
                continue
            rows += [
                row | {"commit": environment()["commit"]}
                for row in tried(name, work, options.commands)
            ]
            what = {name: of.what for name, of in ENVIRONMENTS.items()}
            found = {"environment": environment(), "environments": what}
            write_result(found | {"table": table(rows).splitlines(), "rows": rows}, options.output)
    print(table(rows))
    counts = Counter(part.split(":")[0] for row in rows for part in row["came"].split(" + "))
    if set(counts) - {*GOOD, "skipped"}:
        raise SystemExit(f"something was wrong: {dict(counts)}")


if __name__ == "__main__":
    main()
