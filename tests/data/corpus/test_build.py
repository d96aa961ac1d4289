"""Builds: the same bytes whatever happens meanwhile, and one bad slice is one bad slice."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import anndata
import filelock
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData
from typer.testing import CliRunner

from stofm_geo.cli import app
from stofm_geo.data.corpus import build, find_sources, read_index, summary, verify, workers
from stofm_geo.data.corpus import build as build_function
from stofm_geo.data.corpus.sources import read_slice, slices_of
from stofm_geo.data.corpus.workers import map_tasks
from stofm_geo.datasets import toy_tissue
from tests.helpers import CUT

COMMAND = [sys.executable, "-m", "stofm_geo", "corpus", "build"]
ROOT = Path(__file__).parents[3]


def sums(folder: Path) -> dict[str, str]:
    return {one["folder"]: one["sha256"] for one in read_index(folder)["slices"]}


def arguments(sources: Path, folder: Path, *more: str) -> list[str]:
    sizes = "--k 6 --max-macro-nodes 4 --cells-per-subslice 60 --n-components 5".split()
    named = ["--slice-key", "slice_id", "--organism", "none"]
    return [str(sources), "-o", str(folder), *named, *sizes, *more]


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(sources, corpus, tmp_path) -> None:
    found = find_sources([sources], slice="slice_id", organism="none")
    assert build(found, tmp_path / "two", num_workers=2, **CUT) == []
    assert (tmp_path / "two" / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()
    assert verify(tmp_path / "two") == []


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_bytes(sources, corpus, tmp_path) -> None:
    rng = np.random.default_rng()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, *arguments(sources, tmp_path / "c")]
    slices = tmp_path / "c" / "slices"
    for done in range(3):
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while run.poll() is None and len(list(slices.glob("*.json"))) <= done:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        run.send_signal(signal.SIGKILL)
        run.wait()
    result = CliRunner().invoke(app, ["corpus", "build", *arguments(sources, tmp_path / "c")])
    assert result.exit_code == 0, result.output
    assert "of 5 slices are built already" in result.output
    assert (tmp_path / "c" / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()
    assert verify(tmp_path / "c") == []
    assert not list(slices.glob(".stofm-geo-*"))


def test_what_is_there_is_not_made_again(sources, corpus) -> None:
    lines: list[str] = []
    found = find_sources([sources], slice="slice_id", organism="none")
    build(found, corpus, on_progress=lines.append, **CUT)
    assert lines == ["5 of 5 slices are built already"]


def test_a_changed_source_is_made_again(tmp_path) -> None:
    file = tmp_path / "a.h5ad"
    for seed in (0, 1):
        toy_tissue(90, 20, seed=seed).write_h5ad(file)
        build(find_sources([file], organism="none"), tmp_path / "c", **CUT)
        assert verify(tmp_path / "c") == []
        if seed == 0:
            before = sums(tmp_path / "c")
    assert before.keys() == sums(tmp_path / "c").keys() and before != sums(tmp_path / "c")


def test_bad_slices_are_put_aside(sources, corpus, tmp_path) -> None:
    folder = tmp_path / "sources"
    shutil.copytree(sources, folder)
    whole = (folder / "one.h5ad").read_bytes()
    (folder / "cut_short.h5ad").write_bytes(whole[: len(whole) // 2])
    (folder / "text.h5ad").write_text("no")
    toy_tissue(5, 40, seed=3).write_h5ad(folder / "few.h5ad")
    adata = toy_tissue(100, 40, seed=4)
    del adata.obsm["spatial"]
    adata.write_h5ad(folder / "no_place.h5ad")
    adata = anndata.read_h5ad(folder / "one.h5ad")
    adata[np.random.default_rng(0).permutation(adata.n_obs)].write_h5ad(folder / "the_same.h5ad")
    found = find_sources([folder], slice="slice_id", organism="none")
    failed = dict(build(found, tmp_path / "c", **CUT))
    reasons = {Path(label.split(",")[0]).stem: reason for label, reason in failed.items()}
    assert reasons["cut_short"].startswith("cannot be read as .h5ad (")  # told of which file before
    assert "cut short?" in reasons["cut_short"] and "cannot be read" in reasons["text"]
    assert reasons["few"] == (
        "5 cells are too few for a tissue graph of 6 neighbours a cell; leave the slice out"
    )
    assert reasons["no_place"].startswith("obsm has no 'spatial'")
    assert "has the same cells as" in reasons["the_same"] and len(reasons) == 5
    assert len(sums(tmp_path / "c")) == 5
    table = (tmp_path / "c" / "failed.csv").read_text()
    assert table.startswith("slice,reason\n") and "text.h5ad" in table
    said = CliRunner().invoke(app, ["corpus", "info", str(tmp_path / "c")]).output
    assert "5 slices were skipped" in " ".join(said.split())


def test_a_full_disk_leaves_nothing_half_written(sources, tmp_path, monkeypatch) -> None:
    module = sys.modules[build_function.__module__]
    write, count = module.write_slice, []

    def full(folder: Path, *rest: object) -> None:
        count.append(folder)
        write(folder, *rest)
        if len(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_slice", full)
    found = find_sources([sources], slice="slice_id", organism="none")
    with pytest.raises(OSError, match="cannot be written, the disk is full; make room") as told:
        build(found, tmp_path / "c", **CUT)
    assert str(tmp_path / "c" / "slices" / count[1].name) in str(told.value)
    assert len(list((tmp_path / "c" / "slices").iterdir())) == 2  # one, with a file about it
    assert build(found, tmp_path / "c", **CUT) == []
    assert len(count) == 6


def test_verify_finds_a_flipped_byte(corpus, tmp_path) -> None:
    copy = tmp_path / "c"
    shutil.copytree(corpus, copy)
    said = CliRunner().invoke(app, ["corpus", "verify", str(copy)])
    assert said.exit_code == 0 and "All 5 slices are as they were written" in said.output
    name = read_index(copy)["slices"][2]["folder"]
    shard = next(file for file in (copy / "slices" / name / "records" / "c").rglob("*/0"))
    stored = bytearray(shard.read_bytes())
    stored[len(stored) // 2] ^= 1
    shard.write_bytes(stored)
    shutil.rmtree(copy / "slices" / read_index(copy)["slices"][0]["folder"])
    wrong = verify(copy)
    assert len(wrong) == 2 and "is missing" in wrong[0] and name in wrong[1]
    said = CliRunner().invoke(app, ["corpus", "verify", str(copy)])
    assert said.exit_code == 1 and "SHA-256 differs" in said.output


def test_zarr_folders_are_read_too(sources, tmp_path) -> None:
    folder = tmp_path / "sources"
    adata = anndata.read_h5ad(sources / "three.h5ad")
    adata.uns["spatialdata_attrs"] = {"region_key": "slice_id", "region": "x", "instance_key": "y"}
    zarr.create_group(folder / "sample.zarr" / "tables", zarr_format=2)
    zarr.create_group(folder / "sample.zarr", zarr_format=2)
    adata.write_zarr(folder / "sample.zarr" / "tables" / "cells")
    one = anndata.read_h5ad(sources / "one.h5ad")
    one.X = sp.csc_matrix(one.X)
    one.write_zarr(folder / "by_columns.zarr")
    dense = anndata.read_h5ad(sources / "tiny_panel.h5ad")
    dense.X = dense.X.toarray()
    dense.write_h5ad(folder / "dense.h5ad")
    assert build(find_sources([folder], organism="none"), tmp_path / "c", **CUT) == []
    row = summary(tmp_path / "c")[-1]
    assert row["slices"] == 5 and row["cells"] == 1050 and row["genes"] == 40


def test_the_records_are_those_of_any_storage(sources, corpus, tmp_path) -> None:
    one = anndata.read_h5ad(sources / "one.h5ad")
    one.X = sp.csc_matrix(one.X.astype(np.float64))
    one.write_zarr(tmp_path / "one.zarr")
    build(find_sources([tmp_path / "one.zarr"], organism="none"), tmp_path / "c", **CUT)
    here, there = (
        folder / "slices" / next(name for name in sums(folder) if name.startswith("one"))
        for folder in (tmp_path / "c", corpus)
    )
    for name in ("records/c/0/0", "common/c/0", "genes/c/0"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


def test_a_manifest(sources, tmp_path) -> None:
    shutil.copy(sources / "three.h5ad", tmp_path)
    shutil.copy(sources / "one.h5ad", tmp_path)
    manifest = tmp_path / "manifest.csv"
    lines = ["path,slice,technology", "three.h5ad,slice2,", "one.h5ad,slice_id,MERFISH"]
    manifest.write_text("\n".join(lines))
    more = ["--manifest", str(manifest)]
    command = ["corpus", "build", *arguments(sources, tmp_path / "c", *more)[1:]]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    index = read_index(tmp_path / "c")
    assert index["technologies"] == ["MERFISH", "toy"]
    assert sorted(one["slice"] for one in index["slices"]) == ["slice1", "slice2"]
    manifest.write_text("file\nx")
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 1 and "columns are ['file']" in " ".join(said.output.split())
    manifest.write_text("path,organism\nthree.h5ad,rat")
    said = CliRunner().invoke(app, command)
    assert "line 2: organism must be" in " ".join(said.output.split())


def test_genes_that_are_no_genes(sources, tmp_path) -> None:
    with pytest.raises(ValueError, match="no slice could be built"):
        build(find_sources([sources / "one.h5ad"]), tmp_path / "c", **CUT)
    assert "no name is a known gene" in (tmp_path / "c" / "failed.csv").read_text()
    with pytest.raises(FileNotFoundError, match="run it again"):
        read_index(tmp_path / "c")


def test_a_column_with_gaps_tells_slices_apart(tmp_path) -> None:
    adata = toy_tissue(120, 20, n_slices=2, seed=6)
    names = adata.obs["slice_id"].astype(object)
    names.iloc[:3] = np.nan
    adata.obs["slice_id"] = names
    adata.write_h5ad(tmp_path / "gaps.h5ad")
    found = find_sources([tmp_path / "gaps.h5ad"], organism="none")
    with pytest.warns(UserWarning, match="separates 2 slices, but all cells are treated as one"):
        assert build(found, tmp_path / "c", **CUT) == []
    found = find_sources([tmp_path / "gaps.h5ad"], slice="slice_id", organism="none")
    with pytest.raises(ValueError, match="no slice could be built"):
        build(found, tmp_path / "c", **CUT)
    assert "is missing for 3 of 120 cells" in (tmp_path / "c" / "failed.csv").read_text()


def test_a_slice_named_by_a_number_is_found_however_it_is_written(tmp_path) -> None:
    adata = toy_tissue(120, 20, n_slices=2, seed=6)
    second = (adata.obs["slice_id"] == "slice2").to_numpy()
    for values in (second + 1, (second + 1).astype(float), (second + 1).astype(float).astype(str)):
        adata.obs["slice_id"] = values
        adata.write_h5ad(tmp_path / "a.h5ad")
        for name in ("2", "2.0"):
            (source,) = find_sources([tmp_path / "a.h5ad"], slice=name, organism="none")
            (which,) = slices_of(source)
            assert which.name == "2"
            np.testing.assert_array_equal(np.sort(read_slice(which).row), np.flatnonzero(second))


def test_x_and_y_of_a_table_are_found_by_name(tmp_path) -> None:
    adata = toy_tissue(120, 20, seed=6)
    pos = read_of(adata, tmp_path)
    x, y = adata.obsm["spatial"].T
    adata.obsm["spatial"] = pd.DataFrame({"z": 1.0, "y": y, "x": x}, index=adata.obs_names)
    np.testing.assert_array_equal(read_of(adata, tmp_path), pos)


def read_of(adata: AnnData, folder: Path) -> np.ndarray:
    """Positions in the one slice of a file."""
    adata.write_h5ad(folder / "a.h5ad")
    (which,) = slices_of(find_sources([folder / "a.h5ad"], organism="none")[0])
    return read_slice(which).pos


def test_a_disk_without_room_for_the_index_is_named(sources, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    found = find_sources([sources / "one.h5ad"], organism="none")
    with pytest.raises(OSError, match=f"^{tmp_path / 'c'}.*: cannot be written, the disk is full"):
        build(found, tmp_path / "c", **CUT)
    assert not list((tmp_path / "c" / "slices").iterdir())


def test_cells_without_a_place_are_told_by_their_rows(tmp_path) -> None:
    adata = toy_tissue(120, 20, n_slices=2, seed=6)
    row = int(np.flatnonzero(adata.obs["slice_id"] == "slice2")[4])
    adata.obsm["spatial"][row] = np.nan
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = find_sources([tmp_path / "a.h5ad"], slice="slice_id", organism="none")
    ((label, reason),) = build(found, tmp_path / "c", **CUT)
    assert "slice2" in label and f"infinite for 1 of 60 cells ({row});" in reason


def test_two_builds_do_not_write_at_once(sources, tmp_path) -> None:
    (tmp_path / "c").mkdir()
    with (
        filelock.FileLock(tmp_path / "c" / ".lock"),
        pytest.raises(RuntimeError, match="another build is writing there"),
    ):
        build(find_sources([sources], organism="none"), tmp_path / "c", **CUT)


def test_input_is_checked_at_the_door(sources, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_sources([tmp_path / "none.h5ad"])
    with pytest.raises(FileNotFoundError, match=r"\*.h5ad: no .h5ad files or zarr folders"):
        find_sources([tmp_path / "*.h5ad"])
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"a file of no known format; known are \.h5ad"):
        find_sources([tmp_path / "a.csv"])
    with pytest.raises(OSError, match=r"a\.csv.* cannot be written .Not a directory"):
        build(find_sources([sources]), tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="name the folder of a corpus"):
        read_index(sources)
    with pytest.raises(ValueError, match="k must be above zero; found 0"):
        build([], tmp_path / "c", k=0)
    assert len(find_sources([sources, sources / "*.h5ad", sources / "one.h5ad"])) == 3
    (tmp_path / "corpus.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="is not of format 3"):
        read_index(tmp_path)


def test_a_process_that_dies_is_one_task_lost(monkeypatch) -> None:
    # Forked, they start at once.
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers, "_pool", lambda count: ProcessPoolExecutor(count, fork))
    tasks = ["1 + 1", "__import__('os')._exit(1)", "2 + 1"]
    assert dict(map_tasks(eval, tasks, 2)) == dict(zip(tasks, (2, None, 3), strict=True))
