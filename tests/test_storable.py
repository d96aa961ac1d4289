"""What AnnData reads or holds, and its files do not."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from stofm_geo._storable import _mapping, prepare_for_writing, storable_frame, storable_names
from stofm_geo.data import read_slice_file, write_h5ad
from tests.helpers import make_slice


@pytest.fixture
def adata() -> AnnData:
    return make_slice(20, 6)


def again(adata: AnnData, folder: Path) -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of slashes
        write_h5ad(adata, folder / "out.h5ad")
        return read_h5ad(folder / "out.h5ad")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["L2", "L2/3"], ["L2", "L2_3"]),
        (["a/b", "a_b", "a/b_2"], ["a_b_3", "a_b", "a_b_2"]),
        (["", ".", "..", "_index", "x"], ["_", "._", ".._", "_index_", "x"]),
        ([1, "1.5"], ["1", "1.5"]),
    ],
)
def test_names_are_storable_and_stay_apart(names: list, expected: list[str]) -> None:
    found = storable_names(names)
    assert len(set(found)) == len(found)
    if names[0] != "a/b":
        assert found == expected
    assert storable_names(found) == found


def test_text_of_pandas_own_types(adata, tmp_path) -> None:
    adata.obs["note"] = pd.array([f"n{i}" for i in range(19)] + [None], dtype="string")
    adata.obs["sure"] = pd.array(["a", "b"] * 10, dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        adata.obs_names = adata.obs_names.astype("string")
        adata.var_names = adata.var_names.astype("string")
        adata.write_h5ad(tmp_path / "in.h5ad")
    read = read_slice_file(tmp_path / "in.h5ad")
    prepare_for_writing(read)
    found = again(read, tmp_path)
    assert list(found.obs_names) == [f"cell{i}" for i in range(20)]
    assert list(found.var_names) == [f"gene{i}" for i in range(6)]
    assert list(found.obs["note"][:19]) == [f"n{i}" for i in range(19)]
    assert found.obs["note"].isna().tolist() == [False] * 19 + [True]
    assert list(found.obs["sure"]) == ["a", "b"] * 10


@pytest.mark.parametrize("same", [True, False])
def test_a_column_called_index_in_raw(adata, tmp_path, same: bool) -> None:
    """As SeuratDisk and converters of loom leave it."""
    adata.raw = adata
    adata.write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        group = file["raw/var"]
        index = group[group.attrs["_index"]]
        names = (index["values"] if isinstance(index, h5py.Group) else index)[()]
        del group[group.attrs["_index"]]
        for key, values in (("features", names), ("_index", names if same else names[::-1])):
            group.create_dataset(key, data=values, dtype=h5py.string_dtype())
            group[key].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        group.attrs["_index"] = "features"
        group.attrs["column-order"] = np.array(["_index"], dtype=object)
    read = read_slice_file(tmp_path / "in.h5ad")
    if same:
        prepare_for_writing(read)
    else:
        with pytest.warns(UserWarning, match=r"raw\.var: 1 names .* \(_index -> _index_\)"):
            prepare_for_writing(read)
    found = again(read, tmp_path).raw
    assert list(found.var_names) == list(adata.var_names)
    assert list(found.var.columns) == ([] if same else ["_index_"])
    assert (found.X != adata.X).nnz == 0


def test_an_index_that_has_the_name_of_a_column(adata, tmp_path) -> None:
    adata.obs["cell"] = np.arange(20)
    adata.obs.index.name = "cell"
    found = again(adata, tmp_path)
    assert list(found.obs["cell"]) == list(range(20)) and found.obs_names[3] == "cell3"


def test_an_index_that_has_the_name_of_a_column_beside_it(adata, tmp_path) -> None:
    adata.obs.index.name = "CD8A"
    adata.obsm["genes"] = pd.DataFrame({"CD8A": np.arange(20.0)}, index=adata.obs_names)
    assert list(again(adata, tmp_path).obsm["genes"]["CD8A"]) == list(range(20))
    index = pd.Index(range(20), name="CD8A")
    with pytest.warns(UserWarning, match="CD8A -> CD8A_"):
        frame = storable_frame(np.ones((20, 2)), index, ["CD8A", "x"], "it")
    assert list(frame.columns) == ["CD8A_", "x"]


def test_slashes_anywhere(adata, tmp_path) -> None:
    adata.obs["L2"], adata.obs["L2/3"] = 1, 2
    adata.obsm["share"] = pd.DataFrame({"a/b": np.arange(20.0), "a": 1.0}, index=adata.obs_names)
    adata.layers["raw/counts"] = adata.X.copy()
    adata.uns["deep"] = {"x/y": {"u/v": 1}, "x": 2}
    with pytest.warns(UserWarning, match=r"obs: 1 names that a file cannot hold .*L2/3 -> L2_3"):
        found = again(adata, tmp_path)
    assert (found.obs["L2"] == 1).all() and (found.obs["L2_3"] == 2).all()
    assert found.obsm["share"]["a_b"].tolist() == list(range(20))
    assert "raw_counts" in found.layers and found.uns["deep"] == {"x_y": {"u_v": 1}, "x": 2}


def test_what_cannot_be_mended_is_refused_before_the_work(adata) -> None:
    adata.obs["mixed"] = [1, "a"] * 10
    with pytest.raises(ValueError, match=r"a\.h5ad: can be read, but not written .*mixed"):
        prepare_for_writing(adata, "a.h5ad")


def test_what_is_well_stays_as_it_is(adata) -> None:
    for names in ("obs_names", "var_names"):  # which pandas 3 makes text of its own type
        setattr(adata, names, getattr(adata, names).astype(object))
    adata.raw = adata
    adata.obsm["share"] = pd.DataFrame({"a": np.arange(20.0)}, index=adata.obs_names)
    before = adata.copy()
    prepare_for_writing(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.raw.var, before.raw.var)
    pd.testing.assert_frame_equal(adata.obsm["share"], before.obsm["share"])


def test_x_among_the_layers_stays() -> None:
    """anndata lists it there as ``None`` from version 0.13 on."""
    layers = {None: 1, "a/b": 2}
    with pytest.warns(UserWarning, match="a/b -> a_b"):
        _mapping(layers, "layers")
    assert layers == {None: 1, "a_b": 2}
