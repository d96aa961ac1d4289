"""Runs: what fails is kept with its reason and the rest goes on; what is there is not run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stofm_geo import benchmark
from stofm_geo.benchmark import DATASETS, MODELS, TASKS, running
from stofm_geo.benchmark.records import FILE, KEYS, append, environment, read_rows

OWN = """
import os, time
import numpy as np
from stofm_geo import benchmark
from stofm_geo.benchmark import DATASETS
from stofm_geo.benchmark.tasks import domains

def one(folder):
    return {"one": DATASETS["toy"].load(None)["slice1"][:300].copy()}

def raises(problem, seed):
    raise ArithmeticError("no luck\\nat all")

def sleeps(problem, seed):
    time.sleep(600)

def dies(problem, seed):
    os._exit(3)

def short(problem, seed):
    return [np.zeros((part.n_obs - 1, 4)) for part in problem.test], {}

def shows(slices, dataset):
    (case,) = domains(slices, dataset)
    def make():
        problem, score = case.make()
        problem.test[0].obs["label"] = "x"
        return problem, score
    yield benchmark.Split("all", make)

benchmark.register_dataset("one slice", one)
benchmark.register_dataset("gone", one, files={"gone.h5ad": None})
benchmark.register_task("own", "vectors", ["one slice", "gone"], domains)
benchmark.register_task("shows", "vectors", ["one slice"], shows)
for solve in (raises, sleeps, dies, short):
    benchmark.register_model(solve.__name__, solve, seeded=False)
benchmark.register_model("absent", raises, needs="no_such_module")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What the file registers here and in the workers; forgotten afterwards."""
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(OWN)
    before = [dict(registry) for registry in (DATASETS, MODELS, TASKS)]
    yield file
    for registry, entries in zip((DATASETS, MODELS, TASKS), before, strict=True):
        registry._entries = entries


@pytest.fixture(scope="module")
def results(own, tmp_path_factory) -> tuple[Path, dict[str, dict], list[str]]:
    folder, said = tmp_path_factory.mktemp("results"), []
    rows = benchmark.run(
        folder,
        tasks=["own", "nothing", "shows"],
        models=["raises", "PCA", "PCB", "absent", "short"],
        datasets=["one slice", "gone", "nowhere", "toy"],
        data=folder,
        seeds=1,
        load=[own],
        say=said.append,
    )
    by_name = {}
    for row in rows:
        name = row["task"] if row["task"] == "shows" else row["model"]
        by_name[name or row["dataset"] or row["task"]] = row
    return folder, by_name, said


@pytest.mark.slow
def test_what_fails_says_why_and_the_rest_goes_on(results) -> None:
    folder, rows, said = results
    assert rows["PCA"]["status"] == "done" and 0 < rows["PCA"]["scores"]["ari"] < 1
    assert rows["PCA"]["seconds"] < 5 and rows["PCA"]["peak_mib"] > 100
    reasons = {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"}
    assert reasons["raises"] == "ArithmeticError: no luck (own.py, line 12)"
    assert reasons["shows"] == (
        "ValueError: a test slice has obs['label'], which models see; remove it"
    )
    assert reasons["short"] == "ValueError: a prediction must be [300, D]; found [299, 4]"
    assert reasons["PCB"].startswith("no model is called 'PCB'; did you mean 'PCA'?")
    assert reasons["absent"] == "needs no_such_module, which is not installed"
    assert reasons["nothing"].startswith("no task is called 'nothing'")
    assert reasons["gone"] == f"{folder} has no gone.h5ad"
    assert reasons["nowhere"].startswith("no data set is called 'nowhere'")
    assert reasons["toy"].startswith("none of the requested tasks uses the data set 'toy'")
    assert any("FAILED" in line for line in said) and "6 cells to run" in "\n".join(said)
    for row in rows.values():
        assert set(KEYS) | {"date", "commit", "machine", "versions"} <= set(row)


@pytest.mark.slow
def test_the_rest_goes_on_where_a_process_ends(own, tmp_path) -> None:
    rows = benchmark.run(
        tmp_path,
        tasks=["own"],
        models=["sleeps", "dies", "PCA"],  # the first two take their process with them
        datasets=["one slice"],
        seeds=1,
        limit=5,
        load=[own],
        say=str,
    )
    reasons = {row["model"]: row.get("reason") for row in rows}
    assert reasons == {
        "sleeps": "TimeoutError: it took more than 5 s",
        "dies": "RuntimeError: its process ended with 3",
        "PCA": None,
    }


def test_what_is_there_is_not_run_again(own, results) -> None:
    folder, _, _ = results
    rows = benchmark.run(folder, tasks=["own"], models=["PCA"], datasets=["one slice"], say=str)
    assert rows == []


@pytest.mark.slow
def test_a_cell_again_gives_the_same_number(own, results, monkeypatch) -> None:
    _, rows, _ = results
    row = json.loads(json.dumps(rows["PCA"]))  # as it is read from the file
    assert benchmark.rerun(row, load=[own])["scores"] == row["scores"]
    with pytest.raises(ValueError, match="data or split differ"):
        monkeypatch.setattr(running.Worker, "run", lambda *_: row | {"digest": "another"})
        benchmark.rerun(row, load=[own])
    failed = {key: row[key] for key in KEYS} | {"status": "failed", "reason": "TimeoutError: ..."}
    monkeypatch.setattr(running.Worker, "run", lambda *_: failed)
    assert benchmark.rerun(row, load=[own]) == failed  # and not that its data are others
    with pytest.raises(KeyError, match="the row has no seed"):
        benchmark.rerun({key: row[key] for key in KEYS[:4]})


def test_a_line_that_was_cut_short_is_left_out(tmp_path) -> None:
    row = dict(zip(KEYS, ("a", "b", "c", "d", 0), strict=True)) | {"status": "failed"}
    append({**row, "reason": "first"}, tmp_path / FILE)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"task": "half')
    assert [one["reason"] for one in read_rows(tmp_path)] == ["first"]
    append({**row, "reason": "second"}, tmp_path / FILE)  # of the same cell
    assert [one["reason"] for one in read_rows(tmp_path)] == ["second"]
    (tmp_path / "other.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match=r"other\.jsonl, line 1: is not a result"):
        read_rows(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no results"):
        read_rows(tmp_path / "nowhere")


def test_unfit_arguments_are_refused(tmp_path) -> None:
    for bad in ({"seeds": 0}, {"jobs": 0}, {"limit": 0}):
        with pytest.raises(ValueError, match="must be above zero"):
            benchmark.run(tmp_path, **bad)
    assert environment()["commit"] and not list(tmp_path.iterdir())
    for bad in ({"models": "PCA"}, {"tasks": "regions"}, {"datasets": "toy"}):
        with pytest.raises(TypeError, match="must be a list of names; found the string"):
            benchmark.run(tmp_path, **bad)
    with pytest.raises(FileNotFoundError, match="nowhere: no such data folder"):
        benchmark.run(tmp_path, data=tmp_path / "nowhere")


@pytest.mark.slow
def test_a_script_without_a_guard_ends_at_once_and_says_what_to_do(tmp_path) -> None:
    script = tmp_path / "script.py"
    call = f"benchmark.run({str(tmp_path / 'out')!r}, tasks=['domains'], models=['PCA'])"
    script.write_text(f"from stofm_geo import benchmark\n{call}\n")
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 1 and 'under if __name__ == "__main__":' in ended.stderr
    assert not (tmp_path / "out").exists()
