"""Commands that are killed, or asked to end, at any moment: nothing is lost, none is half-written.

``python -m benchmarks.quality.kills -o benchmarks/results/kills.json``: every command that writes,
on toy tissue, over what it has written before. It gets

- SIGKILL at ``--kills`` random moments,
- SIGKILL before and after each call that renames, exchanges, links, unlinks or removes,
- SIGTERM and SIGINT while importing, reading, fitting, writing, and at the end.

Each thing it writes must then be the old one or the new one, read whole; where training writes
states to go on from, one of these. After a signal, the exit code is 143 or 130, one line tells, and
nothing is left beside. Then it runs again, undisturbed: all must be as if it had never been
stopped, and nothing be left beside. (After kills that leave the same bytes it runs again once.)

Processes are forked from one that has imported everything, but for the stage of importing.
Resumable: commands that the output has are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.quality import _trials
from benchmarks.quality._commands import COMMANDS, import_all, leftovers, state
from benchmarks.quality._commands import make_inputs as inputs_of
from stofm_geo.benchmark.records import environment, write_result

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STAGES = ("importing", "reading", "fitting", "writing", "end")
IMPORTING = 1.0  # seconds after the start; importing takes several


class Trials:
    """All trials of one command.

    Args:
        name: Of the command.
        work: A folder with ``inputs``, for what is written.
    """

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.command = name, COMMANDS[name]
        self.work, self.out, self.log = work, work / "out", work / "log"
        self.before = work / "old"
        for folder in (self.out, self.before):
            shutil.rmtree(folder, ignore_errors=True)
        self.out.mkdir()
        if self.command.trains:
            stop = self._at("fitting", signal.SIGTERM)
            _trials.run(self.words(False), self.log, stop)
        else:
            self._undisturbed(self.words(False))
        self.out.rename(self.before)
        self.start_anew()
        self.old = self.seen()
        self.seconds = self._undisturbed(self.words(True))
        self.new = self.seen()
        self.rerun: dict[str, str] = {}

    def words(self, again: bool) -> list[str]:
        """What is typed."""
        return self.command.words(self.work / "inputs", self.out, again)

    def seen(self) -> dict[str, str]:
        """Digests of what is there."""
        return _trials.forked(lambda: state(self.command, self.out), self.log)

    def start_anew(self) -> None:
        """The outputs are the old ones."""
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.before, self.out)

    def calls(self) -> int:
        """How often names change."""
        self.start_anew()
        counter = self.work / "calls"
        counter.write_bytes(b"")
        _trials.run(self.words(True), self.log, _trials.count_to(counter))
        return counter.stat().st_size

    def killed(self, before: Callable[[], None] = lambda: None, after: float | None = None) -> str:
        """What is wrong after SIGKILL; nothing, if all is well."""
        self.start_anew()
        end = _trials.run(self.words(True), self.log, before, after)
        if end.code not in (0, 128 + signal.SIGKILL):
            return f"exit code {end.code}: {end.text[-500:]}"
        return self.wrong_now() or self.wrong_after_rerun()

    def asked(self, number: int, stage: str) -> str:
        """What is wrong after a signal at a stage."""
        self.start_anew()
        if stage == "importing":
            end = _import_and(number, self.words(True), self.log)
        else:
            end = _trials.run(self.words(True), self.log, self._at(stage, number))
        told = f"Stopped by {signal.Signals(number).name}"
        lines = [line for line in end.text.splitlines() if told in line]
        if end.code != 128 + number or len(lines) != 1 or "Traceback" in end.text:
            return f"exit code {end.code}: {end.text[-500:]}"
        if left := leftovers(self.out):
            return f"left beside: {left}"
        return self.wrong_now() or self.wrong_after_rerun()

    def wrong_now(self) -> str:
        """What is neither old nor new."""
        for unit, digest in self.seen().items():
            between = self.command.trains and not digest.startswith(("absent", "damaged"))
            if digest not in (self.old[unit], self.new[unit]) and not between:
                return f"{unit}: {digest}"
        return ""

    def wrong_after_rerun(self) -> str:
        """What is otherwise than undisturbed once it has run again."""
        bytes_ = _tree(self.out)
        if bytes_ not in self.rerun:
            end = _trials.run(self.words(True), self.log)
            now = self.seen()
            other = [unit for unit, digest in now.items() if digest != self.new[unit]]
            if end.code != 0:
                self.rerun[bytes_] = f"again: exit code {end.code}: {end.text[-500:]}"
            elif other:
                self.rerun[bytes_] = f"again: {other[0]} is {now[other[0]]}"
            else:
                left = leftovers(self.out)
                self.rerun[bytes_] = f"again: left beside: {left}" if left else ""
        return self.rerun[bytes_]

    def _undisturbed(self, words: list[str]) -> float:
        end = _trials.run(words, self.log)
        if end.code != 0:
            raise RuntimeError(f"{self.name} ended with {end.code}: {end.text[-2000:]}")
        if left := leftovers(self.out):
            raise RuntimeError(f"{self.name} leaves {left}")
        return end.seconds

    def _at(self, stage: str, number: int) -> Callable[[], None]:
        if stage == "writing":
            return _trials.signal_at(number, "stofm_geo._replace:_finish")
        if stage == "end":
            return _trials.signal_at(number, "stofm_geo.cli.output:out.print", "Wrote")
        return _trials.signal_at(number, self.command.stages[stage])


def tried(trials: Trials, kills: int, draw: random.Random, quick: bool) -> dict[str, Any]:
    """All trials of a command."""
    began = time.perf_counter()
    faults: list[str] = []

    def note(moment: str, wrong: str) -> None:
        if wrong:
            faults.append(f"{moment}: {wrong}")
            print(f"  {faults[-1]}", flush=True)

    moments = [round(draw.uniform(0, trials.seconds), 2) for _ in range(kills)]
    for moment in moments:
        note(f"SIGKILL after {moment} s", trials.killed(after=moment))
    calls = trials.calls()
    numbers = draw.sample(range(calls), min(calls, 2)) if quick else range(calls)
    for number in numbers:
        for after in (False, True):
            where = f"SIGKILL {'after' if after else 'before'} call {number}"
            note(where, trials.killed(_trials.die_at(number, after)))
    signals = SIGNALS[:1] if quick else SIGNALS
    stages = STAGES[2:] if quick else STAGES
    for number in signals:
        for stage in stages:
            note(f"{signal.Signals(number).name} while {stage}", trials.asked(number, stage))
    return {
        "command": trials.name,
        "commit": environment()["commit"],
        "undisturbed_seconds": trials.seconds,
        "random_kills": len(moments),
        "calls": calls,
        "kills_at_calls": 2 * len(numbers),
        "signals": len(signals) * len(stages),
        "reruns": len(trials.rerun),
        "faults": faults,
        "seconds": round(time.perf_counter() - began),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Trials, and those after which something was wrong."""
    head = ("command", "kills", "at calls", "signals", "reruns", "faults")
    keys = ("command", "random_kills", "kills_at_calls", "signals", "reruns")
    lines = [head, *((*(str(row[key]) for key in keys), str(len(row["faults"]))) for row in rows)]
    return "\n".join(f"{name:<14}" + "".join(f"{v:>10}" for v in rest) for name, *rest in lines)


def _import_and(number: int, words: list[str], log: Path) -> _trials.End:
    """A process of its own, which gets the signal while it imports."""
    with log.open("w") as said:
        command = [sys.executable, "-m", "stofm_geo", *words]
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        time.sleep(IMPORTING)
        run.send_signal(number)
        code = run.wait()
    return _trials.End(128 - code if code < 0 else code, log.read_text(), IMPORTING)


def _tree(folder: Path) -> str:
    """A digest of all bytes in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).parts
        named = ["leftover" if part.startswith(".stofm-geo-") else part for part in name]
        digest.update(os.sep.join(named).encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few trials of each kind")
    options = parser.parse_args(arguments)
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    done = {row["command"] for row in rows}
    import_all()
    kills = min(options.kills, 1) if options.quick else options.kills
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _trials.forked(lambda: inputs_of(work / "inputs"), work / "log")
        for name in options.commands:
            if name in done:
                continue
            print(name, flush=True)
            draw = random.Random(f"{options.seed} {name}")
            rows.append(tried(Trials(name, work), kills, draw, options.quick))
            text = table(rows).splitlines()
            found = {"environment": environment(), "seed": options.seed}
            write_result(found | {"table": text, "rows": rows}, options.output)
    print(table(rows))
    if counts := Counter(row["command"] for row in rows for _ in row["faults"]):
        raise SystemExit(f"something was wrong: {dict(counts)}")


if __name__ == "__main__":
    main()
