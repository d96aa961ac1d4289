"""Tables: means, spreads, ranks, what is missing, what failed."""

from __future__ import annotations

import numpy as np
import pytest

from stofm_geo.benchmark import report
from stofm_geo.benchmark.records import FILE, append

WHEN = {"date": "2026-01-01", "commit": "abc", "machine": "m", "python": "3"}


def row(model: str, split: str, seed: int, value: float, task: str = "regions") -> dict:
    held_out = split.partition(", ")[2] or "slices"
    scores = {"macro_f1": value} if task == "regions" else {"rmse": value}
    return WHEN | {
        "task": task,
        "dataset": "toy",
        "split": split,
        "held_out": held_out,
        "apart": held_out != "random cells",
        "splits": 2 if held_out == "slices" else 1,
        "model": model,
        "seed": seed,
        "status": "done",
        "scores": scores,
        "seconds": 2.0,
        "peak_mib": 100,
        "record": {"parameters": 3000},
    }


@pytest.fixture
def folder(tmp_path):
    rows = [
        row(model, split, seed, value + 0.1 * seed)
        for model, value in (("GCN", 0.5), ("PCA", 0.6))
        for split in ("a", "b", "a, blocks", "a, random cells")
        for seed in (0, 1)
    ]
    rows.append(row("new", "a", 0, 0.9))
    rows += [row(m, "x, 55 um", 0, v, "deconvolution") for m, v in (("GCN", 0.1), ("PCA", 0.2))]
    rows.append({**row("bad", "a", 0, 0), "status": "failed", "reason": "ValueError: oh"})
    for one in rows:
        append(one, tmp_path / FILE)
    return tmp_path


def test_tables_and_pictures(folder) -> None:
    text = report(folder)
    assert (folder / "report.md").read_text() == text
    assert (folder / "report-regions.png").stat().st_size > 5000
    lines = text.splitlines()
    head = next(line for line in lines if "toy, slices" in line)
    columns = ["toy, slices", "toy, blocks", "toy, random cells (leaks)", "rank", "seconds"]
    assert head == "| | " + " | ".join([*columns, "MiB", "parameters"]) + " |"
    spread = f"± {np.std([0.6, 0.7], ddof=1):.3f}"
    assert f"| PCA | 0.650 {spread} | 0.650 {spread} | 0.650 {spread} |" in text
    assert "| new | 1 of 2 |  |  |" in text  # no mean over what is not there
    order = [line.split(" | ")[0] for line in lines[lines.index(head) + 2 :][:3]]
    assert order == ["| PCA", "| GCN", "| new"]
    assert "deconvolution: rmse (less is better)" in text
    assert "| GCN | 0.100 | 1.0 |" in text
    assert "bad, seed 0: ValueError: oh" in text and "1 failed" in text


def test_synthetic_tissue_counts_only_by_itself(folder) -> None:
    before = report(folder)
    for model, value in (("GCN", 0.8), ("PCA", 0.7)):
        append({**row(model, "a", 0, value), "dataset": "slides", "splits": 1}, folder / FILE)
    text = report(folder)
    head = text.split("## regions")[0]
    assert "| GCN | **0.800** |" in head and "| PCA | 0.700 |" in head
    assert "| PCA | **0.650** |" in before
    (gcn,) = (line for line in text.splitlines() if line.startswith("| GCN | 0.5"))
    assert "| 0.800 | 1.0 |" in gcn  # the rank, too


def test_the_summary_is_of_splits_that_do_not_leak(folder) -> None:
    for model, value in (("GCN", 9.0), ("PCA", 9.5)):
        append(row(model, "a, random cells", 0, value), folder / FILE)
    lines = report(folder).splitlines()
    costs = " | rank | seconds | MiB | parameters |"
    head = lines.index("| | regions (macro_f1 ↑) | deconvolution (rmse ↓)" + costs)
    assert lines[head + 2 : head + 5] == [
        "| GCN | 0.550 | **0.100** | 1.5 | 2.0 | 100 | 3,000 |",
        "| PCA | **0.650** | 0.200 | 1.5 | 2.0 | 100 | 3,000 |",
        "",  # the third has no task whole
    ]


def test_a_readme_carries_the_summary(folder, tmp_path) -> None:
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- quality -->\nold\n<!-- /quality -->\nafter\n")
    report(folder, tmp_path / "out", readme=file)
    new = file.read_text()
    assert new.startswith("before\n<!-- quality -->\n") and new.endswith("-->\nafter\n")
    assert "old" not in new and "Commits: abc. Mean" in new and "deconvolution:" not in new
    assert "| PCA | **0.650**" in new and "![summary](out/report.png)" in new
    assert (tmp_path / "out" / "report.png").stat().st_size > 5000
    report(folder, tmp_path / "out", readme=file)
    assert file.read_text() == new
    file.write_text("no place")
    with pytest.raises(ValueError, match="lacks <!-- quality -->"):
        report(folder, readme=file)
    with pytest.raises(FileNotFoundError, match="is not a file; make it, with <!-- quality -->"):
        report(folder, readme=tmp_path / "none.md")


def test_rows_of_an_older_version_are_told(tmp_path) -> None:
    old = row("PCA", "a", 0, 0.5)
    del old["held_out"]
    append(old, tmp_path / FILE)
    with pytest.raises(ValueError, match="is of an older version, and has no held_out"):
        report(tmp_path)


def test_scores_of_a_task_of_ones_own(tmp_path) -> None:
    own = row("PCA", "a", 0, 0.5) | {"scores": {"mine": 0.7, "other": 0.2}, "splits": 1}
    append(own, tmp_path / FILE)
    text = report(tmp_path)
    assert "regions: mine (more is better)" in text and "| PCA | 0.700 | 1.0 |" in text
    assert "Other scores" in text and "| PCA | 0.200 |" in text


def test_no_results_is_told(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="has no results"):
        report(tmp_path)
    append({**row("bad", "a", 0, 0), "status": "failed", "reason": "x"}, tmp_path / FILE)
    with pytest.raises(ValueError, match="none of 1 cells is done"):
        report(tmp_path)


def test_a_run_that_has_begun(tmp_path) -> None:
    """No column is complete: the table says how many cells there are, and nothing is drawn."""
    for model in ("PCA", "GCN"):
        append(row(model, "a", 0, 0.5), tmp_path / FILE)
    text = report(tmp_path)
    assert text.count("| PCA | 1 of 2 |") and "![" not in text
    assert [file.name for file in tmp_path.glob("report*")] == ["report.md"]
