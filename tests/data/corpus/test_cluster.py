"""A corpus made by a cluster, or by parts, is that of one machine."""

from __future__ import annotations

import filelock
import pytest

from stofm_geo.data.cluster import part_of
from stofm_geo.data.corpus import build, find_sources
from tests.helpers import CUT


def found(sources):
    return find_sources([sources], slice="slice_id", organism="none")


def test_parts(sources, corpus, tmp_path) -> None:
    folder = tmp_path / "c"
    for part in ("2/3", "1/3", "3/3"):
        assert build(found(sources), folder, part=part, **CUT) == []
        assert not (folder / "corpus.json").exists()
    lines: list[str] = []
    assert build(found(sources), folder, on_progress=lines.append, **CUT) == []
    assert lines == ["5 of 5 slices are built already"]
    assert (folder / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()


def test_parts_do_not_meet_a_build_of_all(sources, tmp_path) -> None:
    (tmp_path / "slices").mkdir()
    for name, parts in ((".lock", (None, "1/2")), (".lock-1-of-2", (None, "1/2"))):
        with filelock.FileLock(tmp_path / name):
            for part in parts:
                with pytest.raises(RuntimeError, match="another build is writing there"):
                    build(found(sources), tmp_path, part=part, **CUT)
            if name != ".lock":
                build(found(sources), tmp_path, part="2/2", **CUT)


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_parts_that_are_none(part: str, sources, tmp_path) -> None:
    with pytest.raises(ValueError, match="part must be i/n with 1 <= i <= n, 3/10 say; found"):
        build(found(sources), tmp_path, part=part, **CUT)


def test_each_task_is_in_one_part() -> None:
    tasks = list(range(11))
    assert sorted(task for i in range(1, 5) for task in part_of(tasks, f"{i}/4")) == tasks


def test_no_scheduler_there(sources, tmp_path) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    with pytest.raises(OSError, match="no dask scheduler answers at 'nonsense://x'"):
        build(found(sources), tmp_path, scheduler="nonsense://x", **CUT)


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(sources, corpus, tmp_path) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        lines: list[str] = []

        def on_progress(line: str) -> None:
            if not lines:
                next(iter(cluster.workers.values())).process.process.kill()
            lines.append(line)

        folder = tmp_path / "c"
        address = cluster.scheduler_address
        failed = build(found(sources), folder, scheduler=address, on_progress=on_progress, **CUT)
    assert failed == [] and len(lines) == 5
    assert (folder / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()
