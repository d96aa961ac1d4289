"""Kills and hostile environments: the scripts run, and tell what is well from what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.quality import _trials, environments, kills

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
OLD, NEW = {"file": "1"}, {"file": "2"}


def quick(script: str, output: Path, times: int) -> dict:
    words = [sys.executable, "-m", f"benchmarks.quality.{script}", "-o", str(output)]
    words += ["--quick", "--commands", "evaluate"]
    for _ in range(times):
        subprocess.run(words, check=True, capture_output=True, timeout=300)
    return json.loads(output.read_text())


@pytest.mark.slow
def test_evaluate_survives_kills(tmp_path) -> None:
    found = quick("kills", tmp_path / "kills.json", 2)  # the second time all is there
    (row,) = found["rows"]
    assert row["command"] == "evaluate" and row["faults"] == []
    assert row["random_kills"] == 1 and row["kills_at_calls"] == 4 and row["signals"] == 3
    assert found["table"][1].split() == ["evaluate", "1", "4", "3", str(row["reruns"]), "0"]


@pytest.mark.slow
def test_evaluate_works_without_input(tmp_path) -> None:
    found = quick("environments", tmp_path / "environments.json", 1)
    came = {row["environment"]: row["came"] for row in found["rows"]}
    assert came == {"ordinary": "works", "no stdin": "works"}


@pytest.mark.parametrize(
    ("code", "text", "now", "came"),
    [
        (0, "Wrote it", NEW, "works"),
        (0, "Wrote it", OLD, "silent"),
        (1, "Error: the disk is full", OLD, "clear"),
        (1, "", OLD, "silent"),
        (1, "Traceback (most recent call last)", OLD, "traceback"),
        (None, "", OLD, "hang"),
        (1, "Error: x", {"file": "damaged: ValueError: x"}, "half-written"),
        (0, "", {"file": "absent"}, "half-written"),
    ],
)
def test_what_came_of_a_command(code: int | None, text: str, now: dict, came: str) -> None:
    end = _trials.End(code, text, 1.0)
    assert environments._class(end, False, OLD, now, NEW).split(":")[0] == came


@pytest.mark.parametrize(("after", "left"), [(False, ["b"]), (True, [])])
def test_a_process_dies_before_or_after_a_call(tmp_path, after: bool, left: list[str]) -> None:
    def work() -> None:
        _trials.die_at(1, after)()
        for name in ("a", "b"):
            (tmp_path / name).unlink()

    for name in ("a", "b"):
        (tmp_path / name).touch()
    end = _trials.wait(_trials.start(work, tmp_path / "log"), tmp_path / "log")
    assert end.code == 128 + signal.SIGKILL
    assert [name for name in ("a", "b") if (tmp_path / name).exists()] == left


def test_leftovers_of_other_names_are_the_same_bytes(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / f".stofm-geo-{name}").mkdir(parents=True)
        (tmp_path / name / f".stofm-geo-{name}" / "lock").touch()
    assert kills._tree(tmp_path / "one") == kills._tree(tmp_path / "two")
    (tmp_path / "two" / "more").touch()
    assert kills._tree(tmp_path / "one") != kills._tree(tmp_path / "two")
