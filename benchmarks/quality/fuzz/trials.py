"""Trials: an input damaged, read in a process of its own, and judged."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.fuzz.damage import damage
from benchmarks.quality.fuzz.inputs import Input, digest, write_inputs

CLASSES = ("clear", "harmless", "other input", "silent", "traceback", "hang", "memory")
FAULTS = CLASSES[3:]
_SECONDS, _LONGEST, _BYTES = 10, 60, 2 * 2**30
_CLEAR = (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)  # of the commands
# Not HDF5's "memory allocation failed": that asks for buffers before it compares their sizes with
# the file's, and then does not fill them.
_ALLOCATING = re.compile(r"(unable|not|can't) (to )?allocate|bad.alloc", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """Of a trial.

    Attributes:
        found: Its class.
        done: What was done to the input.
        error: What was raised, if anything.
        warned: Whether a warning came that the undamaged input has not.
    """

    found: str
    done: str
    error: str
    warned: bool


class Trials:
    """Inputs in a folder, and trials of them.

    Args:
        folder: Empty.
        seed: Of all trials.

    Attributes:
        inputs: By name.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        torch.set_num_threads(1)
        self.seed, self.whole, self.damaged = seed, folder / "whole", folder / "damaged"
        self.whole.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.inputs = write_inputs(self.whole)
        # Beside a damaged input is what it names: the sources of a manifest.
        self.damaged.mkdir()
        (self.damaged / "sources").symlink_to(self.whole / "sources")
        self._expected: dict[str, dict[str, Any]] = {}

    def run(self, name: str, number: int) -> Outcome:
        """One trial, which depends on the seed, the name and the number alone."""
        path = self.damaged / name
        expected = self._of_whole(name, path)
        self._copy(name, path)
        done = damage(path, random.Random(f"{self.seed} {name} {number}"))
        came = _read(self.inputs[name].read, path)
        found, error = came.get("found", ""), came.get("error", "")
        if not found and came["digest"] == expected["read"]:
            found = "harmless"
        elif not found or (found == "clear" and str(path) not in error):
            other = done.by_hand or self._other(name, path, expected)
            if not found:
                found = "other input" if other else "silent"
            elif not (other and (beside := self.inputs[name].beside) and beside in error):
                found = "traceback"
        warned = bool(set(came.get("warnings", ())) - set(expected["warnings"]))
        _remove(path)
        return Outcome(found, done.told, error[:400], warned)

    def _of_whole(self, name: str, path: Path) -> dict[str, Any]:
        """What becomes of the undamaged input, at the place of the damaged one."""
        if name not in self._expected:
            self._copy(name, path)
            one: Input = self.inputs[name]
            came = _read(one.read, path)
            if "digest" not in came:
                raise RuntimeError(f"{name} cannot be read as it was written: {came}")
            content = _read(one.content, path).get("digest") if one.content else None
            if one.content and content is None:
                raise RuntimeError(f"{name} cannot be read by another reader as it was written")
            self._expected[name] = {
                "read": came["digest"],
                "warnings": came["warnings"],
                "content": content,
            }
        return self._expected[name]

    def _other(self, name: str, path: Path, expected: dict[str, Any]) -> bool:
        """Whether another reader finds other content, which we admit."""
        content = self.inputs[name].content
        if content is None:
            return False
        return _read(content, path).get("digest", expected["content"]) != expected["content"]

    def _copy(self, name: str, path: Path) -> None:
        _remove(path)
        source = self.whole / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


@contextmanager
def trials(seed: int) -> Iterator[Trials]:
    """In a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Trials(Path(folder).resolve(), seed)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """What comes of it in a process with limits: a digest and warnings, or a class and an error."""
    with tempfile.TemporaryFile() as stream:
        if (child := os.fork()) == 0:
            try:
                stream.write(json.dumps(_limited(read, path)).encode())
                stream.flush()
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stream.seek(0)
        said = stream.read()
    if -status in (signal.SIGALRM, signal.SIGXCPU):
        return {"found": "hang", "error": f"{read}"}
    if status:
        return {"found": "traceback", "error": f"killed by {signal.Signals(-status).name}"}
    return json.loads(said)


def _limited(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LONGEST)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 5))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            found = digest(read(path))
        said = sorted({str(one.message) for one in caught if one.category is UserWarning})
        return {"digest": found, "warnings": said}
    except BaseException as error:
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = f"{type(error).__name__}: {' '.join(str(told).split())}"
        message = message.encode(errors="backslashreplace").decode()
        kind = "clear" if isinstance(error, _CLEAR) else "traceback"
        return {"found": "memory" if _of_memory(error) else kind, "error": message}


def _of_memory(error: BaseException | None) -> bool:
    """Whether memory that there was not is behind an error; libraries tell it as text alone."""
    while error is not None:
        if isinstance(error, MemoryError) or _ALLOCATING.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
