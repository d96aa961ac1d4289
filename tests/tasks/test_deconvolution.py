from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from scipy.optimize import nnls

from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks.deconvolution import pseudospots
from stofm_geo.tasks.deconvolution.poisson_mixture import mixture, proportions
from stofm_geo.tl import deconvolve
from tests.helpers import turned

KEY = "stofm_proportions"
WINDOWS = 600


@pytest.fixture(autouse=True)
def few_windows(monkeypatch) -> None:
    monkeypatch.setattr(pseudospots, "_PSEUDOSPOTS", WINDOWS)


def binned(cells: AnnData, side: float = 55) -> tuple[AnnData, pd.DataFrame]:
    """Square spots of a slice, and what is in them."""
    place = np.floor(cells.obsm["spatial"] / side)
    _, spot = np.unique(place, axis=0, return_inverse=True)
    gather = sp.csr_matrix((np.ones(len(spot)), (spot.ravel(), np.arange(len(spot)))))
    truth = pd.DataFrame(gather @ pd.get_dummies(cells.obs["cell_type"]).to_numpy(float))
    truth.columns = sorted(cells.obs["cell_type"].unique())
    spots = AnnData(sp.csr_matrix(gather @ cells.X), var=cells.var)
    spots.obsm["spatial"] = (gather @ cells.obsm["spatial"]) / gather.sum(axis=1).A
    return spots, truth.div(truth.sum(axis=1), axis=0)


@pytest.fixture(scope="module")
def tissue() -> tuple[AnnData, AnnData, np.ndarray]:
    """A labelled slice, spots of another one, and their true proportions."""
    both = toy_tissue(1600, 80, 2, seed=0)
    first, second = (both[both.obs["slice_id"] == s].copy() for s in ("slice1", "slice2"))
    for part in (first, second):
        part.obs["cell_type"] = part.obs["cell_type"].astype(str)
    spots, truth = binned(second)
    return first, spots, truth


def found(spots: AnnData, reference: AnnData, **options) -> pd.DataFrame:
    spots = spots.copy()
    deconvolve(spots, reference, **options)
    return spots.obsm[options.get("key_added", KEY)]


@pytest.fixture(scope="module")
def shares(tissue) -> pd.DataFrame:
    """What the reference tells of the spots; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudospots, "_PSEUDOSPOTS", WINDOWS)
        return found(tissue[1], tissue[0])


def error(share: pd.DataFrame, truth: pd.DataFrame) -> float:
    return float(np.sqrt(((share[truth.columns].to_numpy() - truth.to_numpy()) ** 2).mean()))


def test_ahead_of_least_squares(tissue, shares) -> None:
    reference, spots, truth = tissue
    types = sorted(reference.obs["cell_type"].unique())
    x = reference.X.toarray()
    mean = np.stack([x[reference.obs["cell_type"] == t].mean(axis=0) for t in types])
    plain = np.stack([nnls(mean.T, y)[0] for y in spots.X.toarray()])
    plain = pd.DataFrame(plain / plain.sum(axis=1, keepdims=True), columns=types)
    assert list(shares.columns) == types and list(shares.index) == list(spots.obs_names)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares.to_numpy() >= 0).all()
    assert error(shares, truth) < 0.9 * error(plain, truth)


def test_without_positions_there_is_the_mixture_alone(tissue) -> None:
    reference, spots, truth = tissue
    apart = reference.copy()
    del apart.obsm["spatial"]
    spots = spots.copy()
    del spots.obsm["spatial"]
    deconvolve(spots, apart)
    assert spots.uns[KEY]["cells_per_spot"] == 0
    assert error(spots.obsm[KEY], truth) < 0.12


def test_a_mixture_without_noise_is_found() -> None:
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.5, 2, (4, 40)) * np.array([[1], [5], [1], [1]])
    cells = rng.dirichlet(np.ones(4), 20) * 10
    got, factors = mixture(cells @ profile, profile, np.ones(40))
    np.testing.assert_allclose(got, cells, atol=0.1)
    assert (factors == 1).all()
    kind = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(
        proportions(got, kind, 2)[:, 0], cells[:, :2].sum(axis=1) / 10, atol=0.01
    )


def test_a_gene_that_one_platform_misses_does_not_decide(tissue) -> None:
    reference, spots, truth = tissue
    spots = spots.copy()
    factor = np.random.default_rng(1).lognormal(0, 0.7, spots.n_vars)
    spots.X = sp.csr_matrix(np.random.default_rng(2).poisson(spots.X.toarray() * factor))
    deconvolve(spots, reference)
    estimated = spots.uns[KEY]["gene_factors"]["factor"].reindex(spots.var_names)
    assert np.corrcoef(np.log(estimated), np.log(factor))[0, 1] > 0.8
    assert error(spots.obsm[KEY], truth) < 0.12


def test_orders_and_poses_do_not_matter(tissue, shares) -> None:
    reference, spots, _ = tissue
    rng = np.random.default_rng(0)
    other = reference[rng.permutation(reference.n_obs), rng.permutation(reference.n_vars)].copy()
    other.obsm["spatial"] = turned(other.obsm["spatial"], 1.0, 500.0)
    mixed = spots[rng.permutation(spots.n_obs), rng.permutation(spots.n_vars)].copy()
    mixed.obsm["spatial"] = turned(mixed.obsm["spatial"], 2.0)
    a, b = shares, found(mixed, other)
    np.testing.assert_allclose(a, b.loc[a.index], atol=1e-5)


def test_same_seed_same_bytes_and_nothing_else_changes(tissue) -> None:
    reference, spots, _ = tissue
    before = reference.copy()
    a = found(spots, reference, seed=3)
    pd.testing.assert_frame_equal(a, found(spots, reference, seed=3))
    pd.testing.assert_frame_equal(before.obs, reference.obs)
    assert (before.X != reference.X).nnz == 0


def test_written_to_a_file(tissue, tmp_path) -> None:
    reference, spots, _ = tissue
    spots = spots.copy()
    deconvolve(spots, reference, key_added="mine", slice_key="slice_id", cells_per_spot=8)
    spots.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obsm["mine"], spots.obsm["mine"])
    assert back.uns["mine"]["cells_per_spot"] == 8


def test_empty_spots_get_the_mean_and_a_warning(tissue) -> None:
    reference, spots, _ = tissue
    spots = spots.copy()
    x = spots.X.tolil()
    x[3] = 0
    spots.X = sp.csr_matrix(x)
    with pytest.warns(UserWarning, match=r"1 of \d+ spots have no counts .*\(3\) and get the mean"):
        deconvolve(spots, reference)
    share = spots.obsm[KEY].to_numpy()
    np.testing.assert_allclose(share[3], np.delete(share, 3, axis=0).mean(axis=0))


def test_shallow_spots_are_told_of(tissue) -> None:
    reference, spots, truth = tissue
    spots = spots.copy()
    spots.X = sp.csr_matrix(np.random.default_rng(0).binomial(spots.X.toarray().astype(int), 0.04))
    with pytest.warns(
        UserWarning, match=r"0\.\d+ times the counts of a reference cell.* cells_per_spot"
    ):
        alone = found(spots, reference)
    assert error(found(spots, reference, cells_per_spot=18), truth) < error(alone, truth)


def test_cells_without_a_label_are_left_out(tissue) -> None:
    reference, spots, _ = tissue
    labels = reference.obs["cell_type"].astype(object)
    rest = reference[np.arange(reference.n_obs) % 5 > 0].copy()
    labels[np.arange(reference.n_obs) % 5 == 0] = np.nan
    reference = reference.copy()
    reference.obs["cell_type"] = labels
    pd.testing.assert_frame_equal(found(spots, reference), found(spots, rest))


def test_missing_types_as_text_are_no_type(tissue) -> None:
    reference, spots, _ = tissue
    hide = np.random.default_rng(0).random(reference.n_obs) < 0.3
    missing, text = reference.copy(), reference.copy()
    missing.obs["cell_type"] = missing.obs["cell_type"].astype(object).where(~hide)
    text.obs["cell_type"] = missing.obs["cell_type"].astype(str)
    with pytest.warns(UserWarning, match=rf"'nan' {hide.sum()}"):
        told = found(spots, text)
    pd.testing.assert_frame_equal(told, found(spots, missing))
    assert "nan" not in told


def test_what_does_not_fit_is_refused(tissue) -> None:
    reference, spots, _ = tissue
    with pytest.raises(KeyError, match=r"the reference: obs has no 'type' .* it has \['cell_type'"):
        deconvolve(spots, reference, "type")
    with pytest.raises(KeyError, match="obs has no 'section'"):
        deconvolve(spots, reference, slice_key="section")
    with pytest.raises(KeyError, match=r"obsm has no 'place' \(positions\); it has \['spatial'\]"):
        deconvolve(spots, reference, spatial_key="place")
    with pytest.raises(TypeError, match=r"found str; read it first: anndata\.read_h5ad"):
        deconvolve(spots, "reference.h5ad")
    with pytest.raises(ValueError, match="adata: there are no cells"):
        deconvolve(spots[:0], reference)
    with pytest.raises(ValueError, match="cells_per_spot must be above zero; found 0"):
        deconvolve(spots, reference, cells_per_spot=0)
    with pytest.raises(ValueError, match="shares 5 gene names with the slice, and more than 5"):
        deconvolve(spots, reference[:, :5])
    other = reference.copy()
    other.var_names = [f"OTHER{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match=r'shares 0 gene names .* give organism="auto"'):
        deconvolve(spots, other)
    alike = reference.copy()
    alike.obs["cell_type"] = "one"
    with pytest.raises(ValueError, match="has only one label, 'one'; at least two"):
        deconvolve(spots, alike)
    alike.obs["cell_type"] = np.nan
    with pytest.raises(ValueError, match=r"the reference: .* is missing for all 800 cells"):
        deconvolve(spots, alike)
    logs = spots.copy()
    logs.X = np.log1p(spots.X.toarray())
    with pytest.raises(ValueError, match="looks log-transformed"):
        deconvolve(logs, reference)


def test_types_with_slashes_are_saved_and_read_again(tissue, shares, tmp_path) -> None:
    reference, spots, _ = tissue
    slashed, named = spots.copy(), reference.copy()
    types = sorted(named.obs["cell_type"].astype(str).unique())
    new = {types[0]: "L2", types[1]: "L2/3"}
    named.obs["cell_type"] = named.obs["cell_type"].astype(str).replace(new)
    with pytest.warns(UserWarning, match=r"obsm\['stofm_proportions'\]: 1 names .*L2/3 -> L2_3"):
        deconvolve(slashed, named)
    slashed.write_h5ad(tmp_path / "out.h5ad")
    read = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert sorted(read.uns[KEY]["types"]) == sorted(new.get(name, name) for name in types)
    for old in types:
        column = new.get(old, old).replace("/", "_")
        found = read.obsm[KEY][column].to_numpy()
        np.testing.assert_array_equal(found, slashed.obsm[KEY][column])
        at = list(read.uns[KEY]["types"]).index(new.get(old, old))
        assert read.obsm[KEY].columns[at] == column
        assert np.abs(found - shares[old]).mean() < 0.05  # the same type, not another


def test_types_of_one_cell_count_and_types_without_counts_are_left_out(tissue) -> None:
    reference, spots, _ = tissue
    first = reference.obs["cell_type"].iloc[0]
    single = reference.copy()
    single.obs["cell_type"] = np.where(np.arange(single.n_obs) == 5, "single", single.obs.cell_type)
    assert found(spots, single)["single"].max() < 0.5
    empty = reference[np.argsort(reference.obs["cell_type"] == first)].copy()
    kept = int((empty.obs["cell_type"] != first).sum())
    empty.X = sp.vstack([empty.X[:kept], 0 * empty.X[kept:]], format="csr")
    with pytest.warns(UserWarning, match=rf"no cell of 1 types has counts .* \({first}\)"):
        share = found(spots, empty)
    pd.testing.assert_frame_equal(share, found(spots, empty[:kept].copy()))
    assert first not in share


def test_messages_tell_which_side_they_are_about(tissue) -> None:
    reference, spots, _ = tissue
    logs, nowhere = reference.copy(), reference.copy()
    logs.X = logs.X.astype(float).log1p()
    nowhere.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match=r"^the reference: X looks log-transformed"):
        found(spots, logs)
    with pytest.raises(ValueError, match=r"^adata: X looks log-transformed"):
        found(logs, reference)
    with pytest.raises(ValueError, match=r"^the reference: obsm\['spatial'\] is NaN"):
        found(spots, nowhere)


def test_results_do_not_replace_positions(tissue) -> None:
    reference, spots, _ = tissue
    with pytest.raises(ValueError, match="key_added is 'spatial', as is spatial_key"):
        deconvolve(spots, reference, key_added="spatial")
    with pytest.raises(ValueError, match="key_added is 'spatial', as is the usual spatial_key"):
        deconvolve(spots, reference, key_added="spatial", spatial_key="xy")
