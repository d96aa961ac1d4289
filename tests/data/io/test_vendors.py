"""Folders of instruments, through spatialdata-io."""

from __future__ import annotations

import numpy as np
import pytest

import stofm_geo
from stofm_geo.data import prepare_for_writing, split_slices
from tests.data.io import vendors

pytest.importorskip("spatialdata_io", reason="the extra io is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("Visium", "Visium HD", "Xenium", "MERSCOPE", "CosMx", "Stereo-seq", "Slide-seq")
TABLES = {"Visium HD": "square_008um"}


@pytest.mark.parametrize("name", NAMES)
def test_counts_and_positions(tmp_path, name) -> None:
    given = vendors.tissue()
    vendors.MAKERS[name](given, tmp_path / "region_0")
    found = stofm_geo.read(tmp_path / "region_0", table=TABLES.get(name))
    assert found.uns["technology"] == name and list(found.var_names) == list(given.var_names)
    # Cells of CosMx are in another order, and places of Stereo-seq are whole numbers.
    order = np.lexsort(given.obsm["spatial"].round().T), np.lexsort(found.obsm["spatial"].round().T)
    np.testing.assert_allclose(
        found.obsm["spatial"][order[1]],
        given.obsm["spatial"][order[0]],
        atol=0.5 if name == "Stereo-seq" else 1e-6,
    )
    assert (found.X[order[1]] != given.X[order[0]]).sum() == 0
    assert len(split_slices(found)) == 1
    prepare_for_writing(found)
    for file in ("a.h5ad", "a.zarr"):
        stofm_geo.write(found, tmp_path / file)
        assert stofm_geo.read(tmp_path / file).shape == given.shape


def test_bins_are_tables(tmp_path) -> None:
    vendors.MAKERS["Visium HD"](vendors.tissue(), folder := tmp_path / "v")
    with pytest.raises(ValueError, match=r"v: has 2 tables, \['square_008um', 'square_016um'\]"):
        stofm_geo.read(folder)
    assert stofm_geo.read(folder, table="square_016um").n_obs == 60
    with pytest.raises(KeyError, match="has no table 'square_002um'"):
        stofm_geo.read(folder, table="square_002um")


def test_coordinate_systems(tmp_path) -> None:
    given = vendors.tissue()
    vendors.MAKERS["Visium"](given, folder := tmp_path / "v")
    found = stofm_geo.read(folder, coordinate_system="v_downscaled_hires")
    np.testing.assert_allclose(found.obsm["spatial"], given.obsm["spatial"] * 0.2)
    with pytest.raises(KeyError, match=r"no coordinate system 'um'; it is in \['v', 'v_downscaled"):
        stofm_geo.read(folder, coordinate_system="um")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Visium", "spatial/scalefactors_json.json"),
        ("Xenium", "cells.parquet"),
        ("MERSCOPE", "images/micron_to_mosaic_pixel_transform.csv"),
        ("CosMx", "toy_fov_positions_file.csv"),
        ("Stereo-seq", "051.cellcluster/toy.cell.cluster.h5ad"),
    ],
)
def test_files_that_are_missing(tmp_path, name, file) -> None:
    vendors.MAKERS[name](vendors.tissue(), folder := tmp_path / "f")
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"f: cannot be read as a folder of {name} \(") as found:
        stofm_geo.read(folder)
    assert "\n" not in str(found.value)
