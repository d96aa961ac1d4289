"""This checkout against another one: the same work of both, in turns, so noise hits both alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from stofm_geo.benchmark.records import environment

_WORKER = Path(__file__).with_name("_works.py")
_HERE = Path(__file__).parents[2]


class _Worker:
    """A process that works with the library of a checkout."""

    def __init__(self, checkout: Path) -> None:
        # Its folder must not come first on the path, nor an installed version of the library.
        environ = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.names: list[str] = json.loads(self._read())

    def seconds(self, name: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"a worker ended with status {self.process.wait()}; see above")
        return line


def compare(checkout: Path, rounds: int) -> dict[str, Any]:
    """Time all works of both checkouts.

    Args:
        checkout: Root of the other checkout, of a commit before, say.
        rounds: Runs of each work and checkout.

    Returns:
        Commits, the environment, and for each work the medians in milliseconds, and median and
        quartiles of the ratios of this checkout to the other, pair by pair.

    Raises:
        ValueError: A checkout has uncommitted changes, or a worker fails.
    """
    other, own = _commit(checkout), _commit(_HERE)
    workers = [_Worker(root) for root in (_HERE, checkout)]
    rows = []
    try:
        for name in workers[0].names:
            pairs = []
            for index in range(rounds):
                order = workers if index % 2 else workers[::-1]
                taken = {id(worker): worker.seconds(name) for worker in order}
                pairs.append([taken[id(worker)] for worker in workers])
            rows.append({"work": name, **_summary(pairs)})
            row = rows[-1]
            print(f"{name}: {row['ratio']:.2f} of {row['other_ms']:.1f} ms")
    finally:
        for worker in workers:
            worker.close()
    return {
        "environment": environment(),
        "commit": own,
        "other": other,
        "rounds": rounds,
        "rows": rows,
    }


def _summary(pairs: list[list[float]]) -> dict[str, Any]:
    ratios = [own / other for own, other in pairs]
    low, _, high = statistics.quantiles(ratios, n=4)
    own, other = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "ms": own,
        "other_ms": other,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
    }


def _commit(root: Path) -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{root} is no git checkout; hand in one (git worktree add)")
        return done.stdout.strip()

    if changed := git("status", "--porcelain", "--untracked-files=no"):
        raise ValueError(f"{root} has changes; commit them first: {changed.splitlines()[0]}")
    return git("rev-parse", "HEAD")
