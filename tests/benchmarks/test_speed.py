"""The benchmarks of speed: one command measures, one reports, and what they measure is right."""

from __future__ import annotations

import importlib
import json
import operator
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from anndata import read_h5ad
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed"


def speed(name: str) -> ModuleType:
    """A module of the benchmarks, by name."""
    return importlib.import_module(f"benchmarks.speed.{name}")


def command(*words: object) -> tuple[int, str]:
    """The exit status and the words of a command."""
    done = CliRunner().invoke(speed("__main__").app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.fixture
def alone(monkeypatch):
    """A module whose work runs in this process, which has imported all it needs."""

    def alone(name: str) -> ModuleType:
        module = speed(name)
        monkeypatch.setattr(module, "fresh", lambda function, *given, **_: function(*given))
        return module

    return alone


def quick_watch():
    return speed("_machine").Watch(quick=True)


def checked(name: str, result: dict) -> dict:
    """The result, once it has been through JSON and has been reported."""
    result = json.loads(json.dumps(result))
    section = speed(name).report(result)
    assert section.headlines
    for table in section.tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)
    for panel in section.panels:
        assert any(panel.lines.values())
    return result


def test_a_process_fails_and_is_told() -> None:
    fresh, Failed = speed("_process").fresh, speed("_measurements").Failed
    assert fresh(operator.add, 1, 2) == 3
    assert fresh(os.getenv, "OMP_NUM_THREADS", threads=3) == "3"
    with pytest.raises(Failed, match="ZeroDivisionError: division by zero"):
        fresh(operator.truediv, 1, 0)
    with pytest.raises(Failed, match="exit status 3"):
        fresh(os._exit, 3)


def test_a_process_ends_with_all_its_own(tmp_path) -> None:
    late = ["sh", "-c", f"sleep 2; touch {tmp_path / 'late'}"]
    with pytest.raises(speed("_measurements").Failed, match="not done after 1 seconds"):
        speed("_process").fresh(subprocess.run, late, limit=1)
    time.sleep(1.5)
    assert not list(tmp_path.iterdir())


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch) -> None:
    made, known = [], speed("_measurements")

    def fresh(_, name: str, given, limit: float) -> dict:
        made.append(name)
        if name == "scale":
            raise known.Failed("OSError: the disk is full")
        if name == "tokens":
            raise known.LeftOut("no --data")
        return {"without": {"something": "no GPU"}, "rows": []}

    monkeypatch.setattr(speed("_runner"), "fresh", fresh)
    status, words = command("run", "-o", tmp_path, "--quick")
    assert status == 1 and made == list(known.NAMES)
    assert "scale: failed: OSError: the disk is full" in words
    assert "tokens: left out: no --data" in words and "left out something: no GPU" in words
    scale, tokens, attention = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("scale", "tokens", "attention")
    )
    assert scale["failed"] == "OSError: the disk is full" and scale["environment"]["commit"]
    assert tokens["left_out"] == "no --data" and attention["rows"] == []
    made.clear()
    assert command("run", "-o", tmp_path, "--quick")[0] == 1
    assert made == ["scale", "tokens"]  # what is there is kept
    assert command("run", "attention", "-o", tmp_path, "--quick", "--again")[0] == 0
    assert made[2:] == ["attention"]
    monkeypatch.setattr(speed("_runner"), "check_tree", lambda: None)
    status, words = command("run", "attention", "-o", tmp_path)
    assert status == 1 and "quick sizes; name another folder" in words


def test_records_are_of_commits(tmp_path, monkeypatch) -> None:
    """Whatever this checkout is; quick sizes are no records."""
    machine = speed("_machine")
    for commit in ("unknown", "abc-dirty"):
        monkeypatch.setattr(machine, "environment", lambda commit=commit: {"commit": commit})
        status, words = command("run", "attention", "-o", tmp_path / "new")
        assert status == 1 and f"the commit is {commit}" in words
        assert not (tmp_path / "new").exists()
    monkeypatch.setattr(machine, "environment", lambda: {"commit": "abc"})
    machine.check_tree()


def test_a_disturbed_case_is_measured_again(monkeypatch) -> None:
    machine = speed("_machine")
    # Busy and stolen seconds of the machine: at first others use two processors for a second.
    seconds, quiet = iter([(0.0, 0.0), (2.0, 0.0), (2.0, 0.0), (2.0, 0.0)]), []
    monkeypatch.setattr(machine, "_machine_seconds", lambda: next(seconds))
    monkeypatch.setattr(machine, "_own_seconds", lambda: 0.0)
    monkeypatch.setattr(machine.time, "monotonic", iter(range(9)).__next__)
    monkeypatch.setattr(machine, "gflops", lambda: 50.0)
    monkeypatch.setattr(machine, "wait_until_quiet", lambda: quiet.append(1))
    watch = machine.Watch(quick=False)
    assert watch("a case", lambda x: x + 1, 2) == 3
    (row,) = watch.cases
    assert row == {
        "case": "a case",
        "gflops": [50.0, 50.0],
        "others": 0.0,
        "stolen": 0.0,
        "attempts": 2,
        "disturbed": False,
    }
    assert len(quiet) == 2


def test_a_busy_machine_is_told(monkeypatch) -> None:
    machine = speed("_machine")
    monkeypatch.setattr(machine, "_PATIENCE", 0)
    monkeypatch.setattr(machine, "_OTHERS", -1)
    with pytest.raises(speed("_measurements").Failed, match="the machine is busy: others use"):
        machine.Watch(quick=False)("a case", int)


def test_the_machine_is_described() -> None:
    found = speed("_machine").description()
    assert found["threads"] == torch.get_num_threads() and found["processor"]
    assert speed("_machine").gflops() > 0


def test_unknown_names_are_told(tmp_path) -> None:
    status, words = command("run", "speling", "-o", tmp_path / "new")
    assert status == 1 and not (tmp_path / "new").exists()
    assert words.startswith("Error: no measurement is named speling; there are attention, corpus")
    assert len(words.splitlines()) == 1


def test_one_that_runs_out_of_time_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(speed("_runner"), "check_tree", lambda: None)
    status, words = command("run", "attention", "-o", tmp_path, "--limit", 1)
    assert status == 1 and "attention: failed: not done after 1 seconds" in words
    assert json.loads((tmp_path / "attention.json").read_text())["failed"]


@pytest.mark.slow
def test_report_of_the_committed_results(tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    status, words = command("report", RESULTS, "-o", tmp_path / "speed.md", "--readme", readme)
    assert status == 0, words
    text = (tmp_path / "speed.md").read_text()
    assert text == (RESULTS / "report.md").read_text().replace("report.png", "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    for name in speed("_measurements").NAMES:
        assert f"## {name}\n" in text and f"| {name} | measured | 2026-" in text
    lines = readme.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- speed -->"] and lines[-2:] == ["<!-- /speed -->", "after"]
    assert "![Times over sizes](speed.png)" in lines and "old" not in lines
    (layer,) = (line for line in lines if line.startswith("| layer, 10 000 nodes"))
    (row,) = (
        row
        for row in json.loads((RESULTS / "layers.json").read_text())["rows"]
        if (row["nodes"], row["mode"]) == (10_000, "training")
    )
    ratio = speed("_section").brief(row["times"]["TransformerConv"]["ratio"])
    assert f"TransformerConv {ratio}" in layer and "| 2026-" in layer
    stand = text[text.index("## Aims") : text.index("## attention")]
    assert stand.count("\n| ") == 2 + len(speed("_aims").AIMS)  # none without a record
    readme.write_text("no place")
    status, words = command("report", RESULTS, "-o", tmp_path / "speed.md", "--readme", readme)
    assert status == 1 and "lacks <!-- speed --> and <!-- /speed -->" in words


def test_report_of_what_was_not_measured(tmp_path) -> None:
    status, words = command("report", tmp_path)
    assert status == 1 and "has none of attention.json" in words
    shutil.copy(RESULTS / "tokens.json", tmp_path)
    environment = json.loads((tmp_path / "tokens.json").read_text())["environment"]
    failed = {"environment": environment, "quick": True, "failed": "OSError: a | b\nc"}
    (tmp_path / "scale.json").write_text(json.dumps(failed))
    assert command("report", tmp_path)[0] == 0
    text = (tmp_path / "report.md").read_text()
    assert "| scale | failed: OSError: a / b c |" in text and "## scale" not in text
    assert "## tokens" in text
    status, words = command("report", tmp_path, "-o", tmp_path / "report.html")
    assert status == 1 and "let its name end in .md" in words


@pytest.mark.slow
def test_attention() -> None:
    given = speed("_measurements").Given(quick=True)
    found = checked("attention", speed("attention").measure(given, quick_watch()))
    assert found["peaks"]["gemm_gflops"] > 0 and found["peaks"]["copy_gbytes"] > 0
    assert [graph["graph"] for graph in found["building"]] == [
        "near",
        "far",
        "macro nodes",
        "small",
    ]
    rows = found["rows"]
    assert {row["mode"] for row in rows} == {"forward", "training"}
    assert {(row["heads"], row["channels"]) for row in rows} >= {(2, 8), (1, 1), (3, 5)}
    for row in rows:
        assert row["difference"] < 1e-4 and row["median_ms"] > 0 and row["runs"] == 2
        if row["contender"] == "ours":
            assert row["ratio"] == 1
            assert 0 < row["irreducible_once"] and 0 < row["irreducible_each_read"]
    for graph in ("near", "far"):
        contenders = {row["contender"] for row in rows if row["graph"] == graph}
        assert contenders >= {"ours", "reference", "TransformerConv", "padded", "dense"}


@pytest.mark.slow
def test_encoder(alone) -> None:
    given = speed("_measurements").Given(quick=True)
    found = checked("encoder", alone("encoder").measure(given, quick_watch()))
    assert found["without"] == {"the published model": "no --reference"}
    library, weights = found["rows"]
    assert library["model"] == "ours, library" and weights["model"] == "ours, published weights"
    assert weights["pairs"] == 45**2 > library["pairs"] > 45
    assert library["median_s"] > 0 and library["peak_mb"] > library["added_mb"]
    assert sum(library["shares"].values()) == pytest.approx(1)
    parts = {"linear maps", "edge attention", "radial functions", "geometry"}
    assert parts <= set(library["shares"])


def test_published_pairs() -> None:
    encoders = speed("_encoders")
    part = encoders.Slice(cells=80, macro=4)
    matrix, ((src, dst), _) = part.matrix(), part.told()
    there = torch.zeros_like(matrix, dtype=torch.bool)
    there[dst, src] = True
    assert torch.equal(matrix, matrix.t()) and torch.equal(there, there.t())
    assert (matrix[0] == 0).all() and (matrix.diagonal() == 0).all()
    assert (matrix[~there] == encoders.UNKNOWN_DISTANCE).all()
    assert (matrix[there] < encoders.UNKNOWN_DISTANCE).all()
    assert there[:5].all() and not there.all()
    assert len(src) == there.sum()


def test_subslices() -> None:
    given = speed("_measurements").Given(quick=True)
    (row,) = checked("subslices", speed("subslices").measure(given, quick_watch()))["rows"]
    assert row["subslices"] > 1 and row["times"]["ours"]["runs"] == 2


def test_layers() -> None:
    given = speed("_measurements").Given(quick=True)
    forward, training = checked("layers", speed("layers").measure(given, quick_watch()))["rows"]
    ways = [("ours" + option, *way) for option in ("", ", vectors") for way in ((), ("messages",))]
    names = {"TransformerConv", "GATv2Conv", *(", ".join(way) for way in ways)}
    assert set(forward["times"]) == names
    assert set(training["times"]) == names | {"ours, dropout", "ours, dropout, messages"}


def test_growth() -> None:
    given = speed("_measurements").Given(quick=True)
    rows = checked("growth", speed("growth").measure(given, quick_watch()))["rows"]
    sizes = {row["kind"]: list(row["times"]) for row in rows}
    assert sizes["edges"] == ["random order", "sorted"] and sizes["shape"] == ["ours", "reference"]
    assert sizes["hub"] == ["0%", "50%"] and sizes["threads"] == ["1"]
    assert speed("growth").exponent([(1, 3), (10, 300), (100, 30_000)]) == pytest.approx(2)


@pytest.mark.slow
def test_scale(alone) -> None:
    given = speed("_measurements").Given(quick=True)
    (row,) = checked("scale", alone("scale").measure(given, quick_watch()))["rows"]
    assert row["cells"] == 300 and list(row["stages"]) == list(speed("scale").STAGES)


@pytest.mark.slow
def test_instruments() -> None:
    given = speed("_measurements").Given(quick=True)
    part, whole = checked("instruments", speed("instruments").measure(given, quick_watch()))["rows"]
    assert (part["cells"], whole["cells"]) == (150, 600)
    assert whole["peak_gb"] > 0.1 and whole["stages"].keys() == {"fit", "embed", "domains"}
    made = speed("_instruments").INSTRUMENTS
    assert {one.slices * one.cells for one in made.values()} == {300_000, 500_000, 10**6, 2 * 10**6}


def test_shapes_of_instruments(tmp_path) -> None:
    module = speed("_instruments")
    shape = module.Instrument(5000, 300, 60, slices=2, lattice=8.0, empty=1 / 3)
    first, second = (read_h5ad(file) for file in module.make(shape, tmp_path))
    assert first.shape == second.shape == (5000, 300)
    empty = np.diff(first.X.indptr) == 0
    assert abs(empty.mean() - 1 / 3) < 0.02
    assert abs(first.X.sum() / (~empty).sum() - 60) < 3
    assert (np.diff(np.unique(first.obsm["spatial"][:, 0])) == 8).all()
    assert (first.X != second.X).nnz > 0 and first.obs["region"].nunique() == 8


def test_corpus(alone) -> None:
    given = speed("_measurements").Given(quick=True)
    found = checked("corpus", alone("corpus").measure(given, quick_watch()))
    assert found["without"] == {"corpus of files": "no --data"}
    assert found["toy"]["built"]["cells"] == 400
    (loaded,) = found["toy"]["loaded"]
    assert loaded["cells_per_second"]["median"] > 0 and loaded["peak_gb"] > 0
    training = found["training"]
    assert training["steps"] == 1 and training["loader_to_training"] > 0
    assert training["training_cells_per_second"] > 0


def test_fitting(alone) -> None:
    given = speed("_measurements").Given(quick=True)
    found = checked("fitting", alone("fitting").measure(given, quick_watch()))
    assert found["without"] == {"a Visium slice": "no --data"}
    (row,) = found["rows"]
    assert (row["cells"], row["steps"]) == (200, 2)
    assert all(seconds > 0 for seconds in row["parts"].values())
    assert sum(row["parts"].values()) == pytest.approx(row["seconds"])


@pytest.mark.slow
def test_large_corpus(alone) -> None:
    given = speed("_measurements").Given(quick=True)
    found = checked("large_corpus", alone("large_corpus").measure(given, quick_watch()))
    few, many = found["rows"]
    assert (few["opened"]["slices"], many["opened"]["slices"]) == (2, 4)
    assert many["opened"]["subslices"] == 4 and many["opened"]["index_mb"] > 0
    assert many["loaded"]["cells_per_second"] > 0 and many["started"]["checkpoint_mb"] > 1
    (table,) = speed("large_corpus").report(found).tables[1:]
    assert table.title == "All 800 cells"


def test_on_a_gpu_in_small(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    code, text = command("gpu", "-o", tmp_path / "gpu.json", "--device", "cpu", "--quick")
    assert code == 0, text
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) == 4
    assert all(row["times"]["ours"]["ratio"] == 1 for row in rows)
    gpu = speed("gpu")
    with pytest.raises(ValueError, match="other numbers than the reference: off by 5"):
        gpu._check(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]), 1e-4)
    if not torch.cuda.is_available():
        code, text = command("gpu", "-o", tmp_path / "other.json")
        assert code == 1 and "there is no CUDA device" in text


def test_against_another_checkout(tmp_path) -> None:
    works = speed("_works").works(60, 4)
    assert {"layer, forward", "stack of 3, training", "attention, training"} < works.keys()
    row = speed("against")._summary([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
    assert row["ms"] == row["other_ms"] == 2000 and row["ratio"] == 1
    code, text = command("against", tmp_path, "-o", tmp_path / "found.json")
    assert code == 1 and "is no git checkout" in text
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "file").write_text("a")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    against = speed("against")
    assert len(against._commit(tmp_path)) == 40
    (tmp_path / "file").write_text("b")
    with pytest.raises(ValueError, match="has changes; commit them first: M file"):
        against._commit(tmp_path)
