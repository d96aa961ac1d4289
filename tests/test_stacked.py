"""Several slices in one AnnData without a slice key: what is said, and where nothing is."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from stofm_geo import pl
from stofm_geo._stacked import are_stacked, resolve_slice_key
from stofm_geo.data import split_slices
from stofm_geo.tasks.domains import knn_adjacency


def table(n: int = 600, seed: int = 0) -> ad.AnnData:
    """Two slices of random places in one frame."""
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(2, (n, 6)).astype(np.float32))
    cells = ad.AnnData(counts, obsm={"spatial": rng.uniform(0, 100, (n, 2))})
    cells.obs["number"] = np.arange(n) % 2
    return cells


def told(cells: ad.AnnData, key: str | None = None, beside: bool = False) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        positions = np.asarray(cells.obsm["spatial"])[:, :2]
        resolve_slice_key(cells, positions, "spatial", key, beside=beside)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("column", ["batch", "sample", "Sample_ID", "fov", "donor", "orig.ident"])
def test_stacked_slices_are_told_with_what_mends_it(column) -> None:
    cells = table()
    cells.obs[column] = cells.obs["number"].map({0: "a", 1: "b"})
    (said,) = told(cells)
    assert f"obs[{column!r}] separates 2 slices that lie on top of each other" in said
    assert f"give slice_key={column!r} (--slice-key {column})" in said
    assert told(cells, key=column) == []


def test_slices_side_by_side_are_told_of_by_the_surest_names_alone() -> None:
    cells = table()
    cells.obsm["spatial"][:, 0] += 200 * cells.obs["number"].to_numpy()
    cells.obs["batch"] = cells.obs["slice_id"] = cells.obs["number"]
    assert told(cells) == []
    (said,) = told(cells, beside=True)
    assert "obs['slice_id'] separates 2 slices, but all cells are treated as one" in said


def test_fields_of_view_with_places_of_their_own() -> None:
    cells = table(1200)
    whole = cells.obsm["spatial"] * [2, 1]
    cells.obs["fov"] = (whole[:, 0] > 100).astype(int)
    cells.obsm["spatial_fov"] = whole
    cells.obsm["spatial"] = whole - 100 * (whole > [100, 200])
    (said,) = told(cells)
    assert "slice_key='fov' (--slice-key fov), or spatial_key='spatial_fov'" in said
    cells.obsm["spatial"] = whole  # as global positions are: fields beside each other
    assert told(cells) == []


def test_images_of_several_libraries_name_the_column() -> None:
    cells = table()
    cells.obs["which"] = cells.obs["number"].map({0: "V1", 1: "V2"})
    assert told(cells) == []
    cells.uns["spatial"] = {"V1": {}, "V2": {}}
    (said,) = told(cells)
    assert "give slice_key='which'" in said
    assert told(cells[cells.obs["which"] == "V1"]) == []


def test_names_of_cells_and_places_in_an_array_tell_of_slices() -> None:
    cells = table()
    cells.obs_names = [f"AAAC{i // 2}-{i % 2 + 1}" for i in range(cells.n_obs)]
    (said,) = told(cells)
    assert "end in -1, -2" in said and "str.rsplit('-', n=1).str[-1]" in said
    cells = table()
    cells.obs["array_row"] = np.arange(cells.n_obs) // 2 // 20
    cells.obs["array_col"] = np.arange(cells.n_obs) // 2 % 20
    (said,) = told(cells)
    assert said.startswith("300 of 600 spots have the same array_row and array_col as another")
    assert told(cells, key="number") == []


def test_kinds_and_regions_of_one_tissue_are_no_slices() -> None:
    cells = table()
    places = np.stack(np.meshgrid(np.arange(30.0), np.arange(20.0)), -1).reshape(-1, 2)
    cells.obsm["spatial"] = places
    cells.obs["region"] = (places[:, 0] // 3).astype(int)
    assert told(cells) == []
    slices = np.zeros(600, dtype=int)
    assert not are_stacked(places, cells.obs["region"].to_numpy(), slices)
    again = np.concatenate([places, places])
    assert are_stacked(again, np.repeat([0, 1], 600), np.zeros(1200, dtype=int))
    assert not are_stacked(again, np.repeat([0, 1], 600), np.repeat([0, 1], 600))


def test_one_stray_cell_makes_no_slices() -> None:
    cells = table()
    cells.obsm["spatial"][:, 0] += 200 * cells.obs["number"].to_numpy()
    cells.obsm["spatial"][0] = 1e9
    cells.obs["batch"] = cells.obs["number"]
    assert told(cells) == []


def test_regions_of_a_spatialdata_table_are_slices() -> None:
    cells = table()
    cells.obs["region"] = pd.Categorical(cells.obs["number"].map({0: "cells_a", 1: "cells_b"}))
    cells.uns["spatialdata_attrs"] = {
        "region": ["cells_a", "cells_b"],
        "region_key": "region",
        "instance_key": "cell_id",
    }
    with pytest.warns(UserWarning, match=r"separates 2 regions; each is .* \(slice_key='region'"):
        found = split_slices(cells)
    expected = split_slices(cells, slice_key="region")
    assert [part.name for part in found] == [part.name for part in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pos, other.pos)
        np.testing.assert_array_equal(one.row, other.row)
    with pytest.warns(UserWarning, match="separates 2 regions"):
        assert (
            knn_adjacency(cells, "spatial", None) != knn_adjacency(cells, "spatial", "region")
        ).nnz == 0
    with pytest.warns(UserWarning, match="separates 2 regions"):
        assert [ax.get_title() for ax in pl.spatial(cells)] == ["cells_a", "cells_b"]
    assert told(cells[cells.obs["number"] == 0]) == []


@pytest.mark.shared
def test_real_slices(shared_data) -> None:
    for path in sorted(shared_data.glob("*.h5ad")):
        cells = ad.read_h5ad(path, backed="r")
        light = ad.AnnData(obs=cells.obs, obsm={"spatial": np.asarray(cells.obsm["spatial"])})
        assert told(light, key="slice_id", beside=True) == [], path.name
        said = told(light, beside=True)
        several = light.obs["slice_id"].nunique() > 1
        assert len(said) == several and all("slice_key='slice_id'" in one for one in said), (
            path.name
        )


def test_sections_in_a_third_column() -> None:
    cells = table()
    depth = np.c_[cells.obsm["spatial"], cells.obs["number"] * 10.0]
    cells.obsm["spatial"] = depth
    (message,) = [text for text in told(cells) if "third column" in text]
    assert "separates 2 sections" in message and "[:, 2].astype(str)" in message
    cells.obs["slice_id"] = cells.obsm["spatial"][:, 2].astype(str)  # as the message says
    assert not [text for text in told(cells, "slice_id") if "third column" in text]
    for thickness in (np.zeros(600), np.random.default_rng(0).uniform(0, 10, 600)):
        cells.obsm["spatial"] = np.c_[depth[:, :2], thickness]
        assert not [text for text in told(cells, "slice_id") if "third column" in text]
