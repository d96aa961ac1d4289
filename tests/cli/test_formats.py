"""Every format with every command, and what comes out."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from typer.testing import CliRunner

import stofm_geo
from stofm_geo import SToFM
from stofm_geo.cli import app
from stofm_geo.genes import Vocabulary
from tests.data.io import vendors
from tests.helpers import write_store

pytest.importorskip("zarr", reason="zarr is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = dict(hidden_channels=16, heads=2, num_layers=1, n_components=8, out_channels=40)
# Format -> a column with at least two labels.
PLAIN = {"h5ad": "region", "zarr 2": "region", "zarr 3": "region", "SpatialData": "region"}
PLAIN |= {"table": "region", "Slide-seq": "region"}
IO = {"elements": "kind", "Visium": "array_col", "Visium HD": "array_col", "Xenium": "nucleus_area"}
IO |= {"MERSCOPE": "fov", "CosMx": "fov", "Stereo-seq": "cell_type"}
LABELS = PLAIN | IO


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [*map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(message: str, *args: object) -> None:
    result = CliRunner().invoke(app, [*map(str, args)])
    errors = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert result.exit_code == 1 and len(errors) == 1 and message in errors[0], result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A model, what was fine-tuned of it, and a vocabulary."""
    folder = tmp_path_factory.mktemp("formats")
    adata = vendors.tissue()
    SToFM(**SMALL).fit(adata, max_steps=2, progress=False).save_pretrained(folder / "model")
    adata.write_h5ad(folder / "a.h5ad")
    tuned = ("--task", "region", "--label-key", "region", "--model", folder / "model")
    run("finetune", folder / "a.h5ad", "-o", folder / "tuned", *tuned)
    Vocabulary.from_corpus([adata]).to_json(folder / "words.json")
    SToFM.from_pretrained(folder / "model").embed(adata)
    np.save(folder / "embedding.npy", adata.obsm["X_stofm"])
    return folder


@pytest.fixture(scope="module")
def make() -> Callable[[str, Path], tuple[Path, tuple[str, ...]]]:
    """Make the tissue in a format; its path, and the options that name the table."""

    def make(name: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
        adata: AnnData = vendors.tissue()
        if name == "h5ad":
            adata.write_h5ad(folder / "a.h5ad")
            return folder / "a.h5ad", ()
        if name.startswith("zarr"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with anndata.settings.override(zarr_write_format=int(name[-1])):
                    stofm_geo.write(adata, folder / "a.zarr")
            return folder / "a.zarr", ()
        if name == "SpatialData":
            return write_store(folder / "s.zarr", {"t": adata, "u": adata}), ("--table", "t")
        if name == "table":
            return write_store(folder / "s.zarr", {"t": adata}) / "tables" / "t", ()
        if name == "elements":
            return of_elements(adata, folder / "s.zarr"), ()
        vendors.MAKERS[name](adata, folder / "region_0")
        table = ("--table", "square_008um") if name == "Visium HD" else ()
        return folder / "region_0", table

    return make


def of_elements(adata: AnnData, store: Path) -> Path:
    """A store of spatialdata, whose positions are those of circles."""
    spatialdata = pytest.importorskip("spatialdata", reason="the extra io is not installed")
    from spatialdata.models import ShapesModel, TableModel

    table = AnnData(adata.X, adata.obs[[]].copy(), adata.var)
    table.obs["kind"] = adata.obs["region"].to_numpy()
    table.obs["region"] = pd.Categorical(["cells"] * table.n_obs)
    table.obs["instance"] = np.arange(table.n_obs)
    keys: dict[str, Any] = {"region_key": "region", "instance_key": "instance"}
    elements = {
        "cells": ShapesModel.parse(adata.obsm["spatial"], geometry=0, radius=1.0),
        "t": TableModel.parse(table, region="cells", **keys),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatialdata.SpatialData.init_from_elements(elements).write(store)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELS)
def test_every_command_takes_every_format(name, make, work, tmp_path) -> None:
    if name in IO:
        pytest.importorskip("spatialdata_io", reason="the extra io is not installed")
    path, table = make(name, tmp_path)
    label, out = LABELS[name], tmp_path / "out"
    cells = stofm_geo.read(path, table=table[1] if table else None)
    positions = cells.obsm["spatial"]

    run("embed", path, *table, "-o", tmp_path / "e.h5ad", "--model", work / "model")
    found = stofm_geo.read(tmp_path / "e.h5ad")
    assert found.obs_names.equals(cells.obs_names) and "stofm_domain" in found.obs
    assert np.isfinite(found.obsm["X_stofm"]).all() and found.obsm["X_stofm"].any()
    if name in PLAIN:  # the others have other orders or units
        np.testing.assert_array_equal(found.obsm["X_stofm"], np.load(work / "embedding.npy"))
    np.testing.assert_array_equal(found.obsm["spatial"], positions)

    run("predict", path, *table, "-o", tmp_path / "p.zarr", "--model", work / "tuned")
    assert "stofm_label" in stofm_geo.read(tmp_path / "p.zarr", **named(table)).obs

    tuned = ("--task", "region", "--label-key", label, "--model", work / "model")
    run("finetune", path, *table, "-o", out / "tuned", *tuned)
    scored = run("evaluate", path, *table, "--model", out / "tuned", "--label-key", label)
    assert "accuracy" in scored

    run("corpus", "build", path, *table, "-o", out / "corpus", "--organism", "none")
    assert "120" in run("corpus", "info", out / "corpus")

    pytest.importorskip("transformers", reason="transformers is not installed")
    tiny = ("--max-steps", 2, "--max-length", 8, "--hidden-size", 8, "--layers", 1, "--heads", 1)
    words = ("--vocabulary", work / "words.json")
    assert "Wrote" in run("adapt", path, *table, "-o", out / "encoder", *words, *tiny)


def named(table: tuple[str, ...]) -> dict[str, str]:
    return {"table": table[1]} if table and table[1] == "t" else {}


@pytest.mark.slow
def test_a_store_is_its_own_output(make, work, tmp_path) -> None:
    path, table = make("SpatialData", tmp_path)
    pixels = path / "images" / "pixels" / "zarr.json"
    before = pixels.read_bytes(), pixels.stat().st_ino
    run("embed", path, *table, "-o", path, "--model", work / "model")
    assert "stofm_domain" in stofm_geo.read(path, table="t").obs
    assert "stofm_domain" not in stofm_geo.read(path, table="u").obs
    assert (pixels.read_bytes(), pixels.stat().st_ino) == before
    run("predict", path, *table, "-o", path, "--model", work / "tuned")
    assert {"stofm_domain", "stofm_label"} <= set(stofm_geo.read(path, table="t").obs)


@pytest.mark.slow
def test_several_formats_at_once(make, work, tmp_path) -> None:
    paths = []
    for name in ("h5ad", "zarr 3", "table", "Slide-seq"):
        (tmp_path / name).mkdir()
        paths.append(make(name, tmp_path / name)[0])
    shutil.move(paths[1], tmp_path / "b.zarr")
    paths[1] = tmp_path / "b.zarr"
    run("embed", *paths, "-o", tmp_path / "out", "--model", work / "model")
    written = {"a.h5ad", "b.zarr", "t.h5ad", "region_0.h5ad"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == written


def test_what_is_refused_before_the_work(make, work, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(SToFM, "from_pretrained", lambda *_: pytest.fail("the work has begun"))
    path, _ = make("SpatialData", tmp_path)
    model = ("--model", work / "model")
    refused("s.zarr: has 2 tables, ['t', 'u']; name one", "embed", path, "-o", path, *model)
    refused("has no table 'v'", "embed", path, "-o", path, "--table", "v", *model)
    table = ("--table", "t", *model)
    refused("must end in .h5ad or .zarr", "embed", path, "-o", tmp_path / "x.csv", *table)
    (tmp_path / "full.zarr").mkdir()
    (tmp_path / "full.zarr" / "mine").write_text("mine")
    refused("full.zarr: holds mine", "embed", path, "-o", tmp_path / "full.zarr", *table)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    refused("s.zarr: cannot be written (you have no", "embed", path, "-o", path, *table)
