"""A function is called in a new process, for memory and threads of its own.

``python -m benchmarks.speed._process CALL OUTCOME`` is that process: it reads a pickled function
and arguments, and writes what came of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.speed._measurements import Failed, LeftOut

ROOT = Path(__file__).parents[2]


def fresh(
    function: Callable[..., Any],
    *given: Any,
    threads: int | None = None,
    limit: float | None = None,
) -> Any:
    """What a function gives in a new process.

    Args:
        function: At the top of a module, which the new process imports.
        given: Its arguments.
        threads: ``OMP_NUM_THREADS`` there, in place of this process' own.
        limit: Seconds after which it ends, with all processes that it started.

    Raises:
        LeftOut: It raised that.
        Failed: It raised something else, was killed, or ran out of time.
    """
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        call, outcome = Path(folder) / "call", Path(folder) / "outcome"
        call.write_bytes(pickle.dumps((function, given)))
        command = [sys.executable, "-m", "benchmarks.speed._process", str(call), str(outcome)]
        own = limit is not None  # a session, by which a process and all of its own are ended
        process = subprocess.Popen(command, env=environment, start_new_session=own)
        try:
            code = process.wait(limit)
        except BaseException as error:
            with suppress(ProcessLookupError):
                (os.killpg if own else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"not done after {limit:g} seconds") from None
            raise
        if not outcome.exists():
            why = "killed, perhaps for memory" if code == -signal.SIGKILL else f"exit status {code}"
            raise Failed(f"ended without a result: {why}")
        result, error = pickle.loads(outcome.read_bytes())
    if error is not None:
        raise error
    return result


def called(call: Path) -> tuple[Any, Exception | None]:
    """The result, or what was raised."""
    try:
        function, given = pickle.loads(call.read_bytes())
        return function(*given), None
    except (LeftOut, Failed) as error:
        return None, error
    except Exception as error:  # it is told, and the next measurement is made
        traceback.print_exc()
        return None, Failed(" ".join(f"{type(error).__name__}: {error}".split()))


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pickle.dumps(called(Path(sys.argv[1]))))
