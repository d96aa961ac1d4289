"""Stores that spatialdata writes itself: positions of elements, and tables written back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stofm_geo
from stofm_geo.data import split_slices
from tests.helpers import make_slice

spatialdata = pytest.importorskip("spatialdata", reason="the extra io is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SCALE = np.array([2.0, 0.5])


@pytest.fixture
def adata() -> AnnData:
    return make_slice(60, 12)


def saved(elements: dict[str, Any], table: AnnData, folder: Path) -> Path:
    sdata = spatialdata.SpatialData.init_from_elements({**elements, "table": table})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(folder)
    return folder


def annotating(adata: AnnData, region: list[str], names: Any) -> AnnData:
    """The table of these cells, without positions."""
    from spatialdata.models import TableModel

    table = AnnData(adata.X.copy(), adata.obs.copy(), adata.var.copy())
    table.obs["region"], table.obs["instance"] = pd.Categorical(region), names
    keys = {"region_key": "region", "instance_key": "instance"}
    return TableModel.parse(table, region=sorted(set(region)), **keys)


def transformations() -> dict[str, Any]:
    from spatialdata.transformations import Identity, Scale

    return {"global": Scale(SCALE, axes=("x", "y")), "pixels": Identity()}


def circles(pos: np.ndarray, index: Any) -> Any:
    from spatialdata.models import ShapesModel

    return ShapesModel.parse(
        pos, geometry=0, radius=1.0, index=index, transformations=transformations()
    )


def squares(pos: np.ndarray, index: Any) -> Any:
    import geopandas
    from shapely import box
    from spatialdata.models import ShapesModel

    shapes = [box(x - 1, y - 1, x + 1, y + 1) for x, y in pos]
    table = geopandas.GeoDataFrame(geometry=shapes, index=index)
    return ShapesModel.parse(table, transformations=transformations())


def points(pos: np.ndarray, index: Any) -> Any:
    from spatialdata.models import PointsModel

    table = pd.DataFrame(pos, columns=["x", "y"], index=index)
    return PointsModel.parse(table, transformations=transformations())


@pytest.mark.parametrize("kind", [circles, squares, points])
def test_positions_are_centroids_in_the_coordinate_system(adata, tmp_path, kind) -> None:
    names = np.arange(1, 61)
    pos = adata.obsm["spatial"]
    shuffled = np.random.default_rng(0).permutation(60)
    store = saved(
        {"cells": kind(pos[shuffled], names[shuffled])},
        annotating(adata, ["cells"] * 60, names),
        tmp_path / "s.zarr",
    )
    found = stofm_geo.read(store)
    np.testing.assert_allclose(found.obsm["spatial"], pos * SCALE)
    assert found.uns["stofm_positions"] == {"elements": ["cells"], "coordinate_system": "global"}
    found = stofm_geo.read(store, coordinate_system="pixels")
    np.testing.assert_allclose(found.obsm["spatial"], pos)
    with pytest.raises(
        KeyError, match=r"s\.zarr: .*no coordinate system 'um'; it is in \['global', 'pixels'\]"
    ):
        stofm_geo.read(store, coordinate_system="um")


def test_labels(tmp_path) -> None:
    sdata = spatialdata.datasets.blobs()
    sdata.write(tmp_path / "blobs.zarr")
    found = stofm_geo.read(tmp_path / "blobs.zarr")
    pixels = sdata["blobs_labels"].to_numpy()
    for row in (0, 7, -1):
        y, x = np.nonzero(pixels == found.obs["instance_id"].iloc[row])
        np.testing.assert_allclose(found.obsm["spatial"][row], [x.mean() + 0.5, y.mean() + 0.5])


def test_positions_of_the_table_come_first(adata, tmp_path) -> None:
    table = annotating(adata, ["cells"] * 60, np.arange(60))
    table.obsm["spatial"] = adata.obsm["spatial"] + 7
    store = saved(
        {"cells": circles(adata.obsm["spatial"], np.arange(60))}, table, tmp_path / "s.zarr"
    )
    found = stofm_geo.read(store)
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"] + 7)
    assert "stofm_positions" not in found.uns
    found = stofm_geo.read(store, coordinate_system="pixels")
    np.testing.assert_allclose(found.obsm["spatial"], adata.obsm["spatial"])
    found.obsm["X_stofm"] = np.ones((60, 2), dtype=np.float32)
    stofm_geo.write(found, store)
    again = spatialdata.read_zarr(store)["table"]
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"] + 7)
    assert again.obsm["X_stofm"].shape == (60, 2)


def test_regions_are_slices(adata, tmp_path) -> None:
    """Two sections, each in its element; instances have the same names in both."""
    pos, names = adata.obsm["spatial"], np.tile(np.arange(30), 2)
    store = saved(
        {"a": circles(pos[:30], names[:30]), "b": squares(pos[30:], names[30:])},
        annotating(adata, ["a"] * 30 + ["b"] * 30, names),
        tmp_path / "s.zarr",
    )
    found = stofm_geo.read(store)
    np.testing.assert_allclose(found.obsm["spatial"], pos * SCALE)
    slices = split_slices(found, name="s")
    assert [part.name for part in slices] == ["s, slice 'a'", "s, slice 'b'"]
    corpus = pytest.importorskip("stofm_geo.data.corpus", reason="the extra corpus is missing")
    from stofm_geo.data.corpus.sources import read_slice, slices_of

    (source,) = corpus.find_sources([store], organism="none")
    read = [read_slice(one) for one in slices_of(source)]
    assert [len(one.pos) for one in read] == [30, 30]


def test_what_is_written_back_is_valid(adata, tmp_path) -> None:
    elements = {"cells": circles(adata.obsm["spatial"], np.arange(60))}
    store = saved(elements, annotating(adata, ["cells"] * 60, np.arange(60)), tmp_path / "s.zarr")
    before = {file: file.read_bytes() for file in (store / "shapes").rglob("*") if file.is_file()}
    cells = stofm_geo.read(store)
    cells.obsm["X_stofm"] = np.ones((60, 2), dtype=np.float32)
    stofm_geo.write(cells, store)
    sdata = spatialdata.read_zarr(store)
    assert sdata["table"].obsm["X_stofm"].shape == (60, 2) and "spatial" not in sdata["table"].obsm
    assert spatialdata.get_element_annotators(sdata, "cells") == {"table"}
    assert {file: file.read_bytes() for file in before} == before
    sdata.write(tmp_path / "again.zarr")


def test_cells_that_are_in_no_element(adata, tmp_path) -> None:
    elements = {"cells": circles(adata.obsm["spatial"][:55], np.arange(55))}
    store = saved(elements, annotating(adata, ["cells"] * 60, np.arange(60)), tmp_path / "s.zarr")
    with pytest.raises(ValueError, match=r"s\.zarr: 5 of 60 cells are no instance of element 'cel"):
        stofm_geo.read(store)


def test_a_damaged_element(adata, tmp_path) -> None:
    elements = {"cells": circles(adata.obsm["spatial"], np.arange(60))}
    store = saved(elements, annotating(adata, ["cells"] * 60, np.arange(60)), tmp_path / "s.zarr")
    (store / "shapes" / "cells" / "shapes.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"s\.zarr: shapes/cells: cannot be read"):
        stofm_geo.read(store)
