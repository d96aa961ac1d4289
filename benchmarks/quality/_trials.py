"""Commands in forked processes, which import nothing again, and what ends them at a moment."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.quality._commands import typed

HANG = 240.0  # seconds; a command on toy tissue takes a few
# What takes a name from a file or folder, or gives it one.
CALLS = ("rename", "replace", "unlink", "remove", "rmdir", "link")


@dataclass(frozen=True)
class End:
    """How a process ended: its exit code, a signal's as shells have it; ``None``: it hung."""

    code: int | None
    text: str
    seconds: float


def start(work: Callable[[], None], log: Path) -> int:
    """Fork a process in a group of its own that does this and writes what it says to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait(process: int, log: Path, kill_after: float | None = None) -> End:
    """Wait for it to end; SIGKILL after so many seconds."""
    began = time.perf_counter()
    limit = HANG if kill_after is None else kill_after
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        seconds = time.perf_counter() - began
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return End(128 - code if code < 0 else code, _read(log), round(seconds, 2))
        if seconds > limit:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            code = None if kill_after is None else 128 + signal.SIGKILL
            return End(code, _read(log), round(seconds, 2))
        time.sleep(0.005)


def run(
    words: list[str],
    log: Path,
    before: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
) -> End:
    """Run a command, after ``before`` in its process."""

    def work() -> None:
        before()
        typed(words)

    return wait(start(work, log), log, kill_after)


def forked(work: Callable[[], Any], log: Path) -> Any:
    """What a function returns, as JSON; libraries start threads in a process of its own."""
    answer = log.with_suffix(".answer")
    end = wait(start(lambda: _write(answer, json.dumps(work())), log), log)
    if end.code != 0:
        raise RuntimeError(f"ended with {end.code}: {end.text[-2000:]}")
    return json.loads(answer.read_text())


def at_call(act: Callable[[int, bool], None]) -> None:
    """Do something before and after each call that changes names: its number, and if after."""
    from stofm_geo import _replace

    count = [0]

    def counted(call: Callable) -> Callable:
        @wraps(call)
        def counting(*args: Any, **kwargs: Any) -> Any:
            number = count[0]
            count[0] += 1
            act(number, False)
            found = call(*args, **kwargs)
            act(number, True)
            return found

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    _replace.exchange = counted(_replace.exchange)


def die_at(number: int, after: bool) -> Callable[[], None]:
    """SIGKILL before or after the call of this number."""

    def act(*moment: object) -> None:
        if moment == (number, after):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: at_call(act)


def count_to(file: Path) -> Callable[[], None]:
    """Append a byte to a file at each call."""

    def act(number: int, after: bool) -> None:
        if after:
            with file.open("ab") as stream:
                stream.write(b".")

    return lambda: at_call(act)


def signal_at(number: int, where: str, text: str = "") -> Callable[[], None]:
    """Send a signal to this process in the first call of a function, ``module:name``.

    Args:
        number: The signal's.
        where: The function; one of an object, too.
        text: What its first argument starts with, if that matters.
    """

    def before() -> None:
        module, _, name = where.partition(":")
        owner: Any = import_module(module)
        *parts, name = name.split(".")
        for part in parts:
            owner = getattr(owner, part)
        call, sent = getattr(owner, name), []

        @wraps(call)
        def sending(*args: Any, **kwargs: Any) -> Any:
            if not sent and (not text or str(args[0]).startswith(text)):
                sent.append(True)
                os.kill(os.getpid(), number)
            return call(*args, **kwargs)

        setattr(owner, name, sending)

    return before


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _write(file: Path, text: str) -> None:
    file.write_text(text)
