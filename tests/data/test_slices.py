from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from stofm_geo.data import slice_graph, split_slices
from stofm_geo.genes import ObsmFeatures, PCAFeatures
from tests.helpers import make_slice, turned


@pytest.fixture
def adata() -> AnnData:
    adata = make_slice(90, 12)
    adata.obs["section"] = np.tile(["10", "2", "x"], 30)
    adata.obsm["Z"] = np.random.default_rng(0).normal(size=(90, 5))
    return adata


def test_one_slice_without_a_key(adata: AnnData) -> None:
    [part] = split_slices(adata, name="my.h5ad")
    assert part.name == "my.h5ad"
    assert sorted(part.row) == list(range(90))
    assert part.adata.X.dtype == np.float32 and part.adata.X.format == "csr"
    np.testing.assert_array_equal(part.adata.X.toarray(), adata.X[part.row].toarray())
    assert part.adata.obs_names.equals(adata.obs_names[part.row])
    assert part.adata.var_names.equals(adata.var_names)


def test_slices_sorted_by_name_each_in_its_own_unit(adata: AnnData) -> None:
    adata.obsm["spatial"][adata.obs["section"] == "x"] *= 40
    parts = split_slices(adata, slice_key="section", name="f")
    assert [p.name for p in parts] == ["f, slice '10'", "f, slice '2'", "f, slice 'x'"]
    assert sorted(np.concatenate([p.row for p in parts])) == list(range(90))
    for part in parts:
        rows = part.row
        own = adata.obsm["spatial"][rows]
        first = np.linalg.norm(part.adata.obsm["spatial"] - part.adata.obsm["spatial"][0], axis=1)
        expected = np.linalg.norm(own - own[0], axis=1) / part.spacing
        np.testing.assert_allclose(first, expected, atol=1e-3)
    assert parts[2].spacing > 10 * parts[0].spacing


def test_features_instead_of_counts(adata: AnnData) -> None:
    bare = AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    [part] = split_slices(bare, features_key="Z")
    assert part.adata.X is None
    np.testing.assert_array_equal(part.adata.obsm["Z"], adata.obsm["Z"][part.row])
    graph = slice_graph(part, ObsmFeatures("Z").fit([part.adata]))
    assert torch.equal(graph.n_id, torch.from_numpy(part.row))


@pytest.mark.parametrize("features", [None, "Z"])
def test_a_turned_and_resorted_copy_gives_the_same_graphs(
    adata: AnnData, features: str | None
) -> None:
    order = np.random.default_rng(1).permutation(90)
    copy = adata[order].copy()
    copy.obsm["spatial"] = 3 * turned(copy.obsm["spatial"], 1.2, 500)
    options = {"features_key": features, "slice_key": "section"}
    pairs = zip(split_slices(adata, **options), split_slices(copy, **options), strict=True)
    for one, other in pairs:
        encoder = ObsmFeatures("Z") if features else PCAFeatures(5)
        graphs = [slice_graph(part, encoder.fit([part.adata])) for part in (one, other)]
        assert graphs[0].pos.numpy().tobytes() == graphs[1].pos.numpy().tobytes()
        assert graphs[0].x.numpy().tobytes() == graphs[1].x.numpy().tobytes()
        assert one.adata.obs_names.equals(other.adata.obs_names)
        np.testing.assert_array_equal(graphs[0].n_id, order[graphs[1].n_id])


def test_input_stays_as_it_was(adata: AnnData) -> None:
    adata = adata[:, ::-1].copy()
    counts, pos = adata.X.toarray(), adata.obsm["spatial"].copy()
    parts = split_slices(adata, slice_key="section")
    slice_graph(parts[0], PCAFeatures(3).fit([part.adata for part in parts]))
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    np.testing.assert_array_equal(adata.obsm["spatial"], pos)
    assert sorted(adata.obs) == ["section"] and not adata.uns


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (lambda a: a.obsm.pop("spatial"), {}, KeyError, "f.h5ad: obsm has no 'spatial'"),
        (lambda a: None, {"slice_key": "q"}, KeyError, "f.h5ad: obs has no 'q'"),
        (lambda a: None, {"features_key": "q"}, KeyError, "f.h5ad: obsm has no 'q'; it has"),
        (
            lambda a: a.obsm["spatial"].__setitem__((2, 1), np.inf),
            {},
            ValueError,
            "f.h5ad: obsm['spatial'] is NaN or infinite for 1 of 90 cells (cell2)",
        ),
        (
            lambda a: a.X.data.__setitem__(0, -1),
            {},
            ValueError,
            "f.h5ad: X holds negative values (least: -1)",
        ),
        (
            lambda a: a.obsm["spatial"].__setitem__(slice(1, None, 3), 4.0),
            {"slice_key": "section"},
            ValueError,
            "f.h5ad, slice '2': all 30 cells are at one place (4, 4)",
        ),
        (
            lambda a: None,
            {"slice_key": "section", "min_cells": 31},
            ValueError,
            "f.h5ad: 3 of 3 slices have too few cells for a tissue graph of 30 neighbours",
        ),
    ],
)
def test_messages_name_file_slice_and_key(
    adata: AnnData, spoil, options: dict, error: type[Exception], message: str
) -> None:
    spoil(adata)
    with pytest.raises(error, match=re.escape(message)):
        split_slices(adata, name="f.h5ad", **options)


def test_warnings_name_the_file_too(adata: AnnData) -> None:
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.zeros(90)])
    with pytest.warns(UserWarning, match=r"^f.h5ad: obsm\['spatial'\] has 3 columns"):
        split_slices(adata, name="f.h5ad")


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_cells(adata: AnnData, n: int) -> None:
    few = adata[:n].copy()
    if n == 0:
        with pytest.raises(ValueError, match="f: there are no cells"):
            split_slices(few, name="f")
        return
    [part] = split_slices(few, name="f")
    assert len(part) == n
    with pytest.raises(ValueError, match=f"f: {n} cells are too few"):
        split_slices(few, name="f", min_cells=13)


def test_duplicate_cell_names_and_positions_do(adata: AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["twin"] * 90
        adata.obsm["spatial"][:30] = adata.obsm["spatial"][30:60]
        [part] = split_slices(adata)
        assert sorted(part.row) == list(range(90))


def test_small_fields_of_view_are_named_at_once_with_what_drops_them() -> None:
    adata = make_slice(60)
    adata.obs["fov"] = pd.Categorical(["a"] * 50 + ["b"] * 7 + ["c"] * 3)
    with pytest.raises(ValueError, match=r"2 of 3 slices .* \('b': 7, 'c': 3\)") as told:
        split_slices(adata, slice_key="fov", min_cells=13)
    found: dict = {"adata": adata}
    exec(str(told.value).split("drop them: ")[1], found)
    assert found["adata"].n_obs == 50
    assert len(split_slices(found["adata"], slice_key="fov", min_cells=13)) == 1
