from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks.imputation.blending import ClusterMeans, RidgeKnn, blend, correlations
from stofm_geo.tl import impute
from tests.helpers import turned

KEY = "stofm_imputed"


@pytest.fixture(scope="module")
def tissue() -> tuple[AnnData, AnnData, AnnData]:
    """A slice with 60 genes, a reference with 20 more, and the whole slice."""
    both = toy_tissue(1000, 80, 2, seed=0)
    first, second = (both[both.obs["slice_id"] == s].copy() for s in ("slice1", "slice2"))
    return second[:, :60].copy(), first, second


def found(cells: AnnData, reference: AnnData, genes=None, **options) -> pd.DataFrame:
    cells = cells.copy()
    impute(cells, reference, genes, **options)
    return cells.obsm[options.get("key_added", KEY)]


@pytest.fixture(scope="module")
def imputed(tissue) -> AnnData:
    """The slice with what the reference tells of it; not to be changed."""
    cells = tissue[0].copy()
    impute(cells, tissue[1])
    return cells


def truth_of(whole: AnnData, genes: pd.Index) -> np.ndarray:
    x = whole.X.toarray().astype(float)
    total = x[:, :60].sum(axis=1, keepdims=True)
    return np.log1p(x / total * np.median(total))[:, whole.var_names.get_indexer(genes)]


def test_bases_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    known, asked, y = rng.normal(size=(80, 6)), rng.normal(size=(30, 6)), rng.normal(size=(80, 4))
    near, *ridges = RidgeKnn(known, asked).predict(y)
    np.testing.assert_allclose(near, KNeighborsRegressor(50).fit(known, y).predict(asked))
    centred = known - known.mean(axis=0)
    size = (centred**2).sum() / 6
    for strength, ridge in zip((0.1, 1, 10), ridges, strict=True):
        np.testing.assert_allclose(ridge, Ridge(strength * size).fit(known, y).predict(asked))
    predictions = np.stack([near, *ridges])
    np.testing.assert_allclose(blend(predictions, (2, 0.25)), 0.75 * near + 0.25 * ridges[2])


def test_kinds_tell_their_means() -> None:
    rng = np.random.default_rng(0)
    centres = 100 * rng.normal(size=(8, 5))  # so far apart that no cell belongs to two
    known, asked = (np.repeat(centres, n, axis=0) for n in (2, 3))
    known = known + rng.normal(scale=1e-3, size=known.shape)
    y = rng.normal(size=(16, 4))
    (told,) = ClusterMeans(known, asked).predict(y)
    np.testing.assert_allclose(told, np.repeat((y[::2] + y[1::2]) / 2, 3, axis=0))


@pytest.mark.parametrize("cells", [1, 2, 6])
def test_few_or_equal_cells_are_of_one_kind(cells: int) -> None:
    y = np.arange(2.0 * cells).reshape(cells, 2)
    (told,) = ClusterMeans(np.ones((cells, 3)), np.zeros((4, 3))).predict(y)
    np.testing.assert_allclose(told, np.tile(y.mean(axis=0), (4, 1)))


def test_kinds_tell_more_of_rare_genes_than_near_cells_do() -> None:
    rng = np.random.default_rng(0)
    level = rng.gamma(1.0, size=(6, 200))  # of six kinds; half of the genes are known
    kind = [rng.integers(6, size=size) for size in (600, 200)]
    known, asked = (np.log1p(rng.poisson(level[k, :100])) for k in kind)
    y, truth = (np.log1p(rng.poisson(0.1 * level[k, 100:])) for k in kind)
    near, *ridges = (correlations(base, truth).mean() for base in RidgeKnn(known, asked).predict(y))
    assert correlations(ClusterMeans(known, asked).predict(y)[0], truth).mean() > max(near, *ridges)


def test_correlations_are_pearson_s_and_0_of_constants() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 3))
    a[:, 2] = 1
    want = [np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(2)]
    np.testing.assert_allclose(correlations(a, b), [*want, 0])


def test_ahead_of_near_cells_and_its_reliability_is_what_comes(tissue, imputed) -> None:
    cells, reference, whole = tissue
    table = imputed.obsm[KEY]
    assert list(table.columns) == list(reference.var_names[60:])
    assert list(table.index) == list(cells.obs_names)
    assert (table.to_numpy() >= 0).all() and table.dtypes.eq(np.float32).all()
    truth = truth_of(whole, table.columns)
    got = correlations(table.to_numpy(float), truth)
    logs = [truth_of(part, reference.var_names) for part in (reference, whole)]
    near = KNeighborsRegressor(10).fit(logs[0][:, :60], logs[0][:, 60:]).predict(logs[1][:, :60])
    assert got.mean() > 1.05 * correlations(near, truth).mean()
    reliability = imputed.uns[KEY]["reliability"]
    assert list(reliability.index) == list(table.columns)
    assert abs(reliability["correlation"].mean() - got.mean()) < 0.08
    assert np.corrcoef(reliability["correlation"], got)[0, 1] > 0.8
    assert imputed.uns[KEY]["n_shared_genes"] == 60


def test_without_positions(tissue) -> None:
    cells, reference, whole = tissue
    apart = reference.copy()
    del apart.obsm["spatial"]
    table = found(cells, apart)
    assert correlations(table.to_numpy(float), truth_of(whole, table.columns)).mean() > 0.2


def test_orders_and_poses_do_not_matter(tissue, imputed) -> None:
    cells, reference, _ = tissue
    rng = np.random.default_rng(0)
    other = reference[rng.permutation(reference.n_obs), rng.permutation(reference.n_vars)].copy()
    mixed = cells[rng.permutation(cells.n_obs), rng.permutation(cells.n_vars)].copy()
    for part in (other, mixed):
        part.obsm["spatial"] = turned(part.obsm["spatial"], 1.0, 500.0)
    a, b = imputed.obsm[KEY], found(mixed, other)
    np.testing.assert_allclose(a, b.loc[a.index, a.columns], atol=1e-4)


def test_genes_asked_for_are_not_looked_at(tissue) -> None:
    cells, reference, _ = tissue
    genes = [reference.var_names[5], reference.var_names[70]]
    other = cells.copy()
    x = other.X.tolil()
    x[:, 5] = 0
    other.X = sp.csr_matrix(x)
    a, b = (found(part, reference, genes) for part in (cells, other))
    assert list(a.columns) == genes
    pd.testing.assert_frame_equal(a, b)


def test_slices_of_either_side(tissue, tmp_path) -> None:
    cells, reference, _ = tissue
    two = anndata.concat([reference, toy_tissue(400, 80, seed=1)])
    cells = cells.copy()
    impute(cells, two, key_added="mine", slice_key="slice_id")
    cells.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obsm["mine"], cells.obsm["mine"])
    assert back.uns["mine"]["scale"] == cells.uns["mine"]["scale"]


def test_an_empty_cell_is_an_average_one(tissue) -> None:
    cells, reference, _ = tissue
    cells = cells.copy()
    x = cells.X.tolil()
    x[3] = 0
    cells.X = sp.csr_matrix(x)
    with pytest.warns(UserWarning, match=r"1 of 500 cells have no counts"):
        impute(cells, reference)
    assert np.isfinite(cells.obsm[KEY].to_numpy()).all()


def test_what_does_not_fit_is_refused(tissue) -> None:
    cells, reference, whole = tissue
    with pytest.raises(KeyError, match=r"lacks 1 of the 2 requested genes \(nothing\)"):
        impute(cells, reference, ["nothing", reference.var_names[70]])
    with pytest.raises(ValueError, match="adata has all 80 genes of the reference"):
        impute(whole, reference)
    with pytest.raises(ValueError, match="without the requested genes, 5 shared ones are left"):
        impute(cells, reference, list(reference.var_names[5:]))
    with pytest.raises(ValueError, match="genes is empty"):
        impute(cells, reference, [])
    with pytest.raises(KeyError, match="obs has no 'section'"):
        impute(cells, reference, slice_key="section")
    with pytest.raises(KeyError, match=r"obsm has no 'place' \(positions\)"):
        impute(cells, reference, spatial_key="place")
    heap = reference.copy()
    heap.obsm["spatial"][:] = 1
    with pytest.raises(ValueError, match="cells of the reference have the same position"):
        impute(cells, heap)
    with pytest.raises(TypeError, match="the reference: an AnnData is needed; found list"):
        impute(cells, [reference])
    with pytest.raises(ValueError, match=r"the reference has 7 cells with counts .*; 8 or more"):
        impute(cells, reference[:7])
    other = reference.copy()
    other.var_names = [f"OTHER{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match=r'shares 0 gene names .* give organism="auto"'):
        impute(cells, other)
    logs = cells.copy()
    logs.X = np.log1p(cells.X.toarray())
    with pytest.raises(ValueError, match="looks log-transformed"):
        impute(logs, reference)


def test_genes_with_slashes_are_saved_and_read_again(tissue, imputed, tmp_path) -> None:
    cells, reference, _ = tissue
    cells, named = cells.copy(), reference.copy()
    wanted = list(named.var_names[60:])
    new = {wanted[0]: "MZT2A", wanted[1]: "MZT2A/B", wanted[2]: "CCL4/L1/L2"}
    named.var_names = [new.get(name, name) for name in named.var_names]
    expected = imputed.obsm[KEY]
    with pytest.warns(UserWarning, match=r"obsm\['stofm_imputed'\]: 2 names .*MZT2A/B -> MZT2A_B"):
        impute(cells, named)
    cells.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    told = read.uns[KEY]["reliability"].index
    assert [name.replace("/", "_") for name in told] == list(read.obsm[KEY].columns)
    for old in wanted:
        column = new.get(old, old).replace("/", "_")
        np.testing.assert_allclose(read.obsm[KEY][column], expected[old], rtol=1e-5)


def test_messages_tell_which_side_they_are_about(tissue) -> None:
    cells, reference, _ = tissue
    for side, message in ((0, "^adata: "), (1, "^the reference: ")):
        both = [cells.copy(), reference.copy()]
        both[side].X = both[side].X.astype(float).log1p()
        with pytest.raises(ValueError, match=message + "X looks log-transformed"):
            impute(*both)
        both = [cells.copy(), reference.copy()]
        both[side].obsm["spatial"][3] = np.nan
        with pytest.raises(ValueError, match=message + r"obsm\['spatial'\] is NaN"):
            impute(*both)
    with pytest.raises(ValueError, match="key_added is 'spatial'"):
        impute(cells, reference, key_added="spatial")
