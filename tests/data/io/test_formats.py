"""What is recognised, and what is refused in one line; without spatialdata."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import stofm_geo
from stofm_geo.data.io.formats import VENDORS, recognise
from tests.data.io import vendors
from tests.helpers import make_slice, write_store

pytest.importorskip("zarr", reason="zarr is not installed")


@pytest.fixture
def adata() -> AnnData:
    return make_slice(30, 8)


@pytest.fixture
def store(adata, tmp_path) -> Path:
    """A store with two tables."""
    return write_store(tmp_path / "s.zarr", {"cells": adata, "bins": adata[:20].copy()})


def same(a: AnnData, b: AnnData) -> None:
    assert a.obs_names.equals(b.obs_names) and a.var_names.equals(b.var_names)
    assert (a.X != b.X).nnz == 0
    np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])


@pytest.mark.parametrize("version", [2, 3])
def test_each_format_gives_the_same_cells(adata, tmp_path, version) -> None:
    import anndata

    with anndata.settings.override(zarr_write_format=version):
        stofm_geo.write(adata, tmp_path / "a.zarr")
    stofm_geo.write(adata, tmp_path / "a.h5ad")
    store = write_store(tmp_path / "s.zarr", {"cells": adata}, version)
    for path in ("a.h5ad", "a.zarr", store, store / "tables" / "cells"):
        same(stofm_geo.read(tmp_path / path), adata)


def test_a_table_is_named_or_the_only_one(adata, store) -> None:
    assert stofm_geo.read(store, table="bins").n_obs == 20
    assert stofm_geo.read(store / "tables" / "bins").n_obs == 20
    refused(store, ValueError, r"has 2 tables, \['bins', 'cells'\]; name one: table='bins'")
    refused(store, KeyError, r"has no table 'spots'; it has \['bins', 'cells'\]", table="spots")


def test_regions_become_slices(adata, tmp_path) -> None:
    from stofm_geo.data import split_slices

    table = stofm_geo.read(write_store(tmp_path / "s.zarr", {"t": adata}))
    table.obs["at"] = ["left"] * 15 + ["right"] * 15
    with pytest.warns(UserWarning, match="separates 2 regions"):
        names = [part.name for part in split_slices(table, name="t")]
    assert names == ["t, slice 'left'", "t, slice 'right'"]


def refused(path: Path, kind: type[Exception], message: str, **options: object) -> None:
    """One line that begins with the path."""
    with pytest.raises(kind, match=message) as found:
        stofm_geo.read(path, **options)
    assert str(found.value.args[0]).startswith(str(path)) and "\n" not in str(found.value)


def test_what_is_no_table(adata, store, tmp_path) -> None:
    refused(tmp_path / "gone.zarr", FileNotFoundError, "no such file or folder")
    (tmp_path / "cells.csv").write_text("cell,x,y\n")
    refused(tmp_path / "cells.csv", ValueError, r"is a file of no known format; known are \.h5ad")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "counts.mtx").write_text("")
    refused(tmp_path / "other", ValueError, r"is a folder of no known .* Xenium \(experiment\.xen")
    with pytest.raises(ValueError) as found:
        stofm_geo.read(tmp_path / "other")
    assert all(
        f"{vendor.name} ({', '.join(vendor.files)})" in str(found.value) for vendor in VENDORS
    )
    refused(write_store(tmp_path / "none.zarr", {}), ValueError, "has no table, and so no counts")
    shutil.rmtree(store / "tables")
    refused(store, ValueError, "has no table, and so no counts")
    stofm_geo.write(adata, tmp_path / "a.h5ad")
    refused(tmp_path / "a.h5ad", ValueError, "has no named tables, and 't' is", table="t")
    refused(
        tmp_path / "a.h5ad", ValueError, "has no coordinate systems", coordinate_system="global"
    )


def test_tables_without_positions(adata, tmp_path, monkeypatch) -> None:
    del adata.obsm["spatial"]
    store = write_store(tmp_path / "s.zarr", {"t": adata})
    refused(store, ValueError, r"no obsm\['spatial'\], and annotates cells, which is no shapes")
    assert stofm_geo.read(store, spatial_key=None).n_obs == 30
    (store / "shapes" / "cells").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    refused(store, ImportError, r"positions of cells needs spatialdata .*'stofm-geo\[io\]'")


def test_tables_that_annotate_nothing(adata, store, tmp_path) -> None:
    import zarr

    del adata.obsm["spatial"]
    store = write_store(tmp_path / "n.zarr", {"t": adata})
    del zarr.open_group(store / "tables" / "t", mode="r+", use_consolidated=False)["uns"]
    refused(store, ValueError, r"no obsm\['spatial'\], and annotates no element")


def lose(*files: str):
    def losing(folder: Path) -> None:
        found = [path for pattern in files for path in folder.glob(pattern)]
        assert found
        for path in found:
            path.unlink() if path.is_file() else shutil.rmtree(path)

    return losing


@pytest.mark.slow
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("obs/.zgroup", "obs/zarr.json"), "has no obs"),
        (("obs",), "has no obs"),
        (("obs/.zattrs", "obs/zarr.json"), "has no obs|obs has lost its metadata"),
        (("X/data/[0-9c]*",), "X/data has 0 of 1 chunks; was it written or copied to its end"),
        (("X/indices/[0-9c]*",), "X/indices has 0 of 1 chunks"),
        (("X/indptr/[0-9c]*",), "X/indptr has 0 of 1 chunks"),
        (("obs/_index/[0-9c]*",), "obs/_index has 0 of 1 chunks"),
        (("obs/kind/.zattrs", "obs/kind/zarr.json"), "obs/kind has lost its|cannot be read"),
        (("obs/_index/.zarray", "obs/_index/zarr.json"), "cannot be read"),
        (("var/_index/[0-9c]*",), "var/_index has 0 of 1 chunks"),
        ((".zgroup", "zarr.json"), "is incomplete, it has neither zarr.json nor .zgroup"),
    ],
)
def test_half_written_folders(adata, tmp_path, version, files, message) -> None:
    import anndata

    adata.obs["kind"] = ["a", "b"] * 15
    with anndata.settings.override(zarr_write_format=version):
        stofm_geo.write(adata, tmp_path / "a.zarr")
    lose(*files)(tmp_path / "a.zarr")
    refused(tmp_path / "a.zarr", ValueError, message)
    store = write_store(tmp_path / "s.zarr", {"t": adata}, version)
    if "zarr.json" in files:
        lose(*files)(store)
        refused(store, ValueError, message)
    else:
        lose(*files)(store / "tables" / "t")
        with pytest.raises(ValueError, match=message):
            stofm_geo.read(store)


def test_consolidated_metadata_are_not_needed(adata, tmp_path) -> None:
    import anndata

    with anndata.settings.override(zarr_write_format=2):
        stofm_geo.write(adata, tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zmetadata").unlink()
    same(stofm_geo.read(tmp_path / "a.zarr"), adata)


def test_codecs_are_checked_in_tables(store) -> None:
    (file,) = (
        file
        for file in (store / "tables" / "cells" / "obs" / "_index").rglob("zarr.json")
        if '"vlen-utf8"' in file.read_text()
    )
    file.write_text(re.sub('"vlen-utf8"', '"numcodecs.pickle"', file.read_text()))
    with pytest.raises(ValueError, match="names the codec 'pickle'"):
        stofm_geo.read(store, table="cells")


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_folders_of_vendors_are_recognised(vendor, tmp_path) -> None:
    for name in vendor.files:
        file = tmp_path / name.replace("*", "toy_")
        file.parent.mkdir(exist_ok=True)
        assert recognise(tmp_path) is None
        file.write_text("")
    assert recognise(tmp_path).vendor is vendor


def test_the_line_that_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata_io", None)
    for name in ("Visium", "MERSCOPE", "CosMx", "Stereo-seq"):
        vendors.MAKERS[name](vendors.tissue(), folder := tmp_path / name)
        message = f"reading a folder of {name} needs spatialdata-io .*; pip install 'stofm-geo.io.'"
        refused(folder, ImportError, message)


def test_slide_seq_needs_nothing_more(tmp_path) -> None:
    vendors.MAKERS["Slide-seq"](vendors.tissue(), tmp_path / "s")
    found = stofm_geo.read(tmp_path / "s")
    same(found, vendors.tissue())
    assert found.uns["technology"] == "Slide-seq"
    refused(tmp_path / "s", ValueError, "has no coordinate systems", coordinate_system="global")


def test_folders_of_strangers(tmp_path) -> None:
    import h5py

    vendors.MAKERS["Visium"](vendors.tissue(), folder := tmp_path / "v")
    secret = tmp_path / "secret.csv"
    secret.write_text("mine")
    (folder / "spatial" / "link.csv").symlink_to(secret)
    refused(folder, ValueError, r"link\.csv: links to what is not in")
    (folder / "spatial" / "link.csv").unlink()
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "r+") as file:
        file["matrix/more"] = h5py.ExternalLink("elsewhere.h5", "/x")
    refused(folder, ValueError, "/matrix/more is a link to another file")


def test_zipped_zarr_of_strangers(tmp_path) -> None:
    import json
    import zipfile

    (tmp_path / "experiment.xenium").write_text("{}")
    with zipfile.ZipFile(tmp_path / "cells.zarr.zip", "w") as archive:
        archive.writestr("cell_id/.zarray", json.dumps({"filters": [{"id": "pickle"}]}))
    refused(tmp_path, ValueError, "names the codec 'pickle'")
    (tmp_path / "cells.zarr.zip").write_text("no")
    refused(tmp_path, ValueError, "cannot be read as a zipped zarr folder")
