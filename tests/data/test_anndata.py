from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData, read_h5ad

from stofm_geo import from_anndata
from stofm_geo.data import to_obsm
from stofm_geo.genes import ObsmFeatures, PCAFeatures
from stofm_geo.transforms import SpatialKNN
from tests.helpers import make_slice


@pytest.fixture
def adata() -> AnnData:
    adata = make_slice(30, 12)
    adata.obs["section"] = pd.Categorical(np.tile(["b", "a", "c"], 10), categories=list("cbad"))
    adata.obsm["Z"] = np.random.default_rng(0).normal(size=(30, 5))
    return adata


def test_a_node_a_cell_in_the_order_of_the_rows(adata: AnnData) -> None:
    data = from_anndata(adata)
    assert sorted(data.keys()) == ["n_id", "pos", "x"]
    assert data.x.dtype == torch.float32 and data.x.shape == (30, 11)
    assert data.pos.dtype == torch.float64
    np.testing.assert_array_equal(data.pos, adata.obsm["spatial"])
    assert torch.equal(data.n_id, torch.arange(30))
    np.testing.assert_array_equal(data.x, PCAFeatures().fit([adata]).transform(adata))
    data.validate()


def test_positions_are_the_graphs_own(adata: AnnData) -> None:
    before = adata.obsm["spatial"].copy()
    data = from_anndata(adata)
    data.pos += 5
    np.testing.assert_array_equal(adata.obsm["spatial"], before)


def test_features_by_key_by_encoder_and_fitted(adata: AnnData) -> None:
    scaled = adata.obsm["Z"] / np.sqrt(np.square(adata.obsm["Z"]).mean())
    np.testing.assert_allclose(from_anndata(adata, "Z").x, scaled, rtol=1e-5)
    np.testing.assert_allclose(from_anndata(adata, ObsmFeatures("Z")).x, scaled, rtol=1e-5)
    assert from_anndata(adata, PCAFeatures(3)).x.shape == (30, 3)
    fitted = PCAFeatures(4).fit([adata[:20].copy()])
    np.testing.assert_array_equal(from_anndata(adata, fitted).x, fitted.transform(adata))
    # Features by key need no counts.
    assert from_anndata(AnnData(obsm=dict(adata.obsm)), "Z").num_nodes == 30


@pytest.mark.parametrize("values", ["categorical", "text", "number"])
def test_slices_are_numbered_by_name(adata: AnnData, values: str) -> None:
    if values == "text":
        adata.obs["section"] = adata.obs["section"].astype(str)
    if values == "number":
        adata.obs["section"] = np.tile([20, 10, 30], 10)
    data = from_anndata(adata, slice_key="section")
    assert data.slice_names == (["10", "20", "30"] if values == "number" else ["a", "b", "c"])
    assert data.slice_id.dtype == torch.int64
    assert data.slice_id.tolist() == [1, 0, 2] * 10
    src, dst = SpatialKNN(4)(data).edge_index
    assert (data.slice_id[src] == data.slice_id[dst]).all()


STORAGES = {
    "int32 csr": lambda x: x,
    "int64 csr": lambda x: x.astype(np.int64),
    "float64 csr": lambda x: x.astype(np.float64),
    "float32 csc": lambda x: x.astype(np.float32).tocsc(),
    "int64 csc": lambda x: x.astype(np.int64).tocsc(),
    "float64 dense": lambda x: x.toarray().astype(np.float64),
    "int64 dense": lambda x: x.toarray().astype(np.int64),
}


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(adata: AnnData, tmp_path, storage: str, backed: bool) -> None:
    expected = from_anndata(adata).x
    adata.X = STORAGES[storage](adata.X)
    if backed:
        adata.write_h5ad(tmp_path / "slice.h5ad")
        adata = read_h5ad(tmp_path / "slice.h5ad", backed="r")
        assert adata.isbacked
    assert torch.equal(from_anndata(adata, slice_key="section").x, expected)
    if backed:
        adata.file.close()


def test_three_columns_warn_which_are_used(adata: AnnData) -> None:
    two = adata.obsm["spatial"]
    adata.obsm["spatial"] = np.concatenate([two, np.full((30, 1), 9.0)], axis=1)
    with pytest.warns(UserWarning, match=r"obsm\['spatial'\] has 3 columns; the first two are"):
        data = from_anndata(adata)
    np.testing.assert_array_equal(data.pos, two)


@pytest.mark.parametrize("make", [pd.DataFrame, sp.csr_matrix, lambda p: p.astype(int)])
def test_other_kinds_of_positions(adata: AnnData, make) -> None:
    whole = np.round(adata.obsm["spatial"])
    adata.obsm["xy"] = make(whole, adata.obs_names) if make is pd.DataFrame else make(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = from_anndata(adata, "Z", spatial_key="xy")
    assert data.pos.dtype == torch.float64
    np.testing.assert_array_equal(data.pos, np.round(adata.obsm["spatial"]))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda p: None, KeyError, r"obsm has no .spatial.; it has \[.Z.\]; .* name another key"),
        (lambda p: p[:, :1], ValueError, r"obsm\['spatial'\] has 1 column; x and y are needed"),
        (
            lambda p: np.where(np.arange(30)[:, None] < 2, np.nan, p),
            ValueError,
            r"'spatial'\] is NaN or infinite for 2 of 30 cells \(cell0, cell1\); drop them",
        ),
        (
            lambda p: np.where(np.arange(30)[:, None] < 9, np.inf, p),
            ValueError,
            r"NaN or infinite for 9 of 30 cells \(cell0, cell1, cell2, \.\.\.\)",
        ),
        (lambda p: np.full((30, 2), "far"), TypeError, r"obsm\['spatial'\] must hold numbers"),
    ],
)
def test_unfit_positions(adata: AnnData, spoil, error: type[Exception], message: str) -> None:
    pos = spoil(adata.obsm.pop("spatial"))
    if pos is not None:
        adata.obsm["spatial"] = pos
    with pytest.raises(error, match=message):
        from_anndata(adata)


def test_the_fix_in_the_message_works(adata: AnnData) -> None:
    adata.obsm["spatial"][3, 1] = np.nan
    with pytest.raises(ValueError) as error:
        from_anndata(adata)
    advice = str(error.value).split("drop them: ")[1]
    assert from_anndata(eval(advice, {"adata": adata, "np": np}).copy()).num_nodes == 29


def test_missing_slice_key_and_missing_slices(adata: AnnData) -> None:
    with pytest.raises(KeyError, match=r"obs has no 'batch'; it has .* name the slice column"):
        from_anndata(adata, slice_key="batch")
    adata.obs.loc[adata.obs_names[:4], "section"] = np.nan
    with pytest.raises(ValueError, match=r"obs\['section'\] is missing for 4 of 30 cells"):
        from_anndata(adata, slice_key="section")


def test_no_cells(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="there are no cells"):
        from_anndata(adata[:0].copy())


def test_one_cell_has_no_principal_components(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="need 2 cells or more"):
        from_anndata(adata[:1].copy())


@pytest.mark.parametrize("n", [2, 3])
def test_few_cells(adata: AnnData, n: int) -> None:
    data = from_anndata(adata[:n].copy())
    assert data.num_nodes == n and data.x.isfinite().all()


def test_duplicate_cell_names_do(adata: AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["same"] * 30
    assert from_anndata(adata).num_nodes == 30


def stored(adata: AnnData, make=sp.csr_matrix) -> set[tuple[int, int, float]]:
    rng = np.random.default_rng(1)
    near = sp.random(30, 30, 0.2, random_state=rng).tolil()
    near.setdiag(0)
    near = near.tocsr()
    near.eliminate_zeros()
    distance = near.copy()
    distance.data = rng.uniform(1, 9, near.nnz)
    adata.obsp["spatial_connectivities"] = make(near)
    adata.obsp["spatial_distances"] = make(distance)
    coo = distance.tocoo()
    ends = zip(coo.col.tolist(), coo.row.tolist(), strict=True)
    return {(a, b, np.float32(d)) for (a, b), d in zip(ends, coo.data, strict=True)}


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_a_stored_graph_is_reused_on_request(adata: AnnData, make) -> None:
    expected = stored(adata, make)
    assert from_anndata(adata, "Z").edge_index is None
    data = from_anndata(adata, "Z", neighbors_key="spatial")
    src, dst = data.edge_index.tolist()
    assert data.edge_attr.dtype == torch.float32 and data.edge_attr.shape == (len(src),)
    assert set(zip(src, dst, data.edge_attr.numpy(), strict=True)) == expected
    del adata.obsp["spatial_distances"]
    data = from_anndata(adata, "Z", neighbors_key="spatial")
    assert data.num_edges == len(expected) and data.edge_attr is None


def test_no_stored_edge_joins_two_slices(adata: AnnData) -> None:
    expected = stored(adata)
    data = from_anndata(adata, "Z", slice_key="section", neighbors_key="spatial")
    src, dst = data.edge_index
    assert (data.slice_id[src] == data.slice_id[dst]).all()
    inside = {(a, b) for a, b, _ in expected if data.slice_id[a] == data.slice_id[b]}
    assert set(map(tuple, data.edge_index.t().tolist())) == inside
    assert len(data.edge_attr) == len(inside)


def test_a_stored_graph_that_is_not_there(adata: AnnData) -> None:
    message = r"obsp has no 'spatial_connectivities'; it has nothing; run squidpy.gr.spatial_neigh"
    with pytest.raises(KeyError, match=message):
        from_anndata(adata, "Z", neighbors_key="spatial")


def test_vectors_come_back_by_row(adata: AnnData) -> None:
    order = torch.randperm(30)
    n_id = torch.cat([order[:20], torch.tensor([-1, -1])])
    z = torch.rand(22, 4, dtype=torch.float64, requires_grad=True)
    to_obsm(adata, z, n_id, "Q")
    assert adata.obsm["Q"].dtype == np.float32
    np.testing.assert_allclose(adata.obsm["Q"][order[:20]], z[:20].detach(), rtol=1e-6)
    assert np.isnan(adata.obsm["Q"][order[20:]]).all()
    to_obsm(adata, torch.ones(10, 4), order[20:], "Q")
    assert np.isfinite(adata.obsm["Q"]).all()
    to_obsm(adata, torch.ones(30, 3), torch.arange(30))
    assert adata.obsm["X_stofm"].shape == (30, 3)


@pytest.mark.parametrize(
    "old", [np.zeros((30, 3)), np.zeros((30, 3), int), np.zeros((30, 7)), pd.DataFrame]
)
def test_whatever_was_there_the_result_is_float32(adata: AnnData, old) -> None:
    if old is pd.DataFrame:
        old = pd.DataFrame(np.zeros((30, 3)), index=adata.obs_names)
    adata.obsm["X_stofm"] = old
    z = torch.rand(30, 3)
    to_obsm(adata, z, torch.arange(30))
    assert adata.obsm["X_stofm"].dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_stofm"], z)


def test_vectors_and_rows_must_match(adata: AnnData) -> None:
    with pytest.raises(ValueError, match="z has 3 rows and n_id 4; one a node is needed"):
        to_obsm(adata, torch.rand(3, 2), torch.arange(4))


def test_columns_that_seem_to_be_z_y_x_are_told_of() -> None:
    adata = make_slice(120)
    x, y = adata.obsm["spatial"].T
    adata.obsm["spatial"] = np.c_[np.arange(120) % 4 * 10.0, y, x]
    with pytest.warns(UserWarning, match=r"the first has 4 distinct values.*\[:, \[2, 1, 0\]\]$"):
        from_anndata(adata)
    adata.obsm["spatial"] = adata.obsm["spatial"][:, [2, 1, 0]]
    with pytest.warns(UserWarning, match="the first two are used as x and y$"):
        data = from_anndata(adata)
    np.testing.assert_array_equal(data.pos, np.c_[x, y])


def test_positions_under_another_key_are_found() -> None:
    adata = make_slice(30)
    adata.obsm["X_spatial"] = adata.obsm.pop("spatial")
    with pytest.raises(KeyError, match=r"spatial_key='X_spatial' \(--spatial-key X_spatial\)"):
        from_anndata(adata)
