from __future__ import annotations

import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from stofm_geo._linalg import row_order
from stofm_geo.tl import domains
from tests.helpers import turned

module = sys.modules[domains.__module__]


def planted(
    sizes: tuple[int, ...] = (40, 120, 80), noise: float = 0.3, seed: int = 0, shift: float = 0
) -> tuple[AnnData, np.ndarray]:
    """Bands along x, each with vectors of its own, rows in random order."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    start = np.cumsum([0, *sizes])[:-1]
    pos = np.stack(
        [rng.uniform(0, np.take(sizes, label)) + start[label], rng.uniform(0, 20, len(label))], 1
    )
    centre = np.random.default_rng(9).normal(size=(len(sizes), 12))
    adata = AnnData(np.zeros((len(label), 1), np.float32))
    adata.obsm["X_stofm"] = centre[label] + noise * rng.normal(size=(len(label), 12)) + shift
    adata.obsm["spatial"] = pos
    return adata, label


def found(adata: AnnData, n_domains: int | None = None, **options) -> np.ndarray:
    domains(adata, n_domains, **options)
    return adata.obs[options.get("key_added", "stofm_domain")].to_numpy()


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_domains_are_found(refine: bool, seed: int) -> None:
    adata, label = planted(seed=seed)
    assert adjusted_rand_score(label, found(adata, 3, refine=refine, seed=seed)) > 0.85


def test_the_result_is_categorical_from_the_largest() -> None:
    adata, label = planted()
    before = adata.obsm["X_stofm"].copy()
    domains(adata, 3)
    column = adata.obs["stofm_domain"]
    assert isinstance(column.dtype, pd.CategoricalDtype)
    assert list(column.cat.categories) == ["0", "1", "2"]
    count = column.value_counts()
    assert list(count.index) == ["0", "1", "2"]
    assert set(label[column == "0"]) == {1}
    np.testing.assert_array_equal(adata.obsm["X_stofm"], before)
    assert list(adata.obs) == ["stofm_domain"]


def test_the_number_is_found_where_none_is_given() -> None:
    adata, label = planted((150, 150, 150), noise=0.2)
    assert adjusted_rand_score(label, found(adata)) > 0.5


@pytest.mark.parametrize("n_domains", [None, 3, 5])
@pytest.mark.parametrize("kind", ["float", "few values", "first columns alike"])
def test_the_order_of_the_rows_does_not_matter(n_domains: int | None, kind: str) -> None:
    adata, _ = planted(noise=1.0)
    if kind == "few values":
        adata.obsm["X_stofm"] = np.round(adata.obsm["X_stofm"])
    if kind == "first columns alike":
        adata.obsm["X_stofm"][:, :4] = 1.0
    order = np.random.default_rng(1).permutation(adata.n_obs)
    other = adata[order].copy()
    np.testing.assert_array_equal(found(adata, n_domains)[order], found(other, n_domains))


def test_pose_and_unit_do_not_matter() -> None:
    adata, _ = planted(noise=1.0)
    other = adata.copy()
    other.obsm["spatial"] = 0.1 * turned(adata.obsm["spatial"], 1.0, 1e4)
    np.testing.assert_array_equal(found(adata, 4), found(other, 4))


def test_same_seed_same_domains() -> None:
    adata, _ = planted(noise=2.0)
    np.testing.assert_array_equal(found(adata, 5, seed=3), found(adata, 5, seed=3))


def test_neighbours_vote_out_single_cells() -> None:
    adata, label = planted(noise=0.2)
    flipped = np.random.default_rng(2).choice(adata.n_obs, 12, replace=False)
    z = adata.obsm["X_stofm"]
    z[flipped] = z[np.random.default_rng(3).permutation(adata.n_obs)[:12]]
    raw = adjusted_rand_score(label, found(adata, 3, refine=False))
    smooth = adjusted_rand_score(label, found(adata, 3))
    assert smooth > raw and smooth > 0.93


@pytest.mark.parametrize("n_domains", [2, 3, 8, 20])
def test_as_many_as_asked_for(n_domains: int) -> None:
    adata, _ = planted(noise=1.0)
    domains(adata, n_domains)
    assert adata.obs["stofm_domain"].nunique() == n_domains


def test_slices_of_a_list_share_their_domains() -> None:
    one, label = planted()
    other, more = planted((90, 10, 60), seed=5)
    domains([one, other], 3)
    both = np.concatenate([one.obs["stofm_domain"], other.obs["stofm_domain"]])
    assert adjusted_rand_score(np.concatenate([label, more]), both) > 0.85
    assert list(one.obs["stofm_domain"].cat.categories) == ["0", "1", "2"]
    assert one.obs["stofm_domain"].dtype == other.obs["stofm_domain"].dtype


@pytest.mark.parametrize("as_list", [True, False])
def test_slices_that_lie_apart_share_their_domains_all_the_same(as_list: bool) -> None:
    one, label = planted((90, 90, 90))
    other, more = planted((90, 90, 90), seed=5, shift=4.0)
    for adata, name in ((one, "a"), (other, "b")):
        adata.obs["section"] = name
        adata.obs_names = name + adata.obs_names
    label, before = np.concatenate([label, more]), other.obsm["X_stofm"].copy()

    def scores(**options) -> tuple[float, dict]:
        adatas = [one, other] if as_list else [ad.concat([one, other])]
        domains(adatas, 3, slice_key=None if as_list else "section", **options)
        both = np.concatenate([adata.obs["stofm_domain"] for adata in adatas])
        return adjusted_rand_score(label, both), adatas[0].uns["stofm_domain_slices"]

    apart, told = scores(integrate="none")
    assert apart < 0.6 and told == {"slices": 2, "integrate": "none"}
    assert scores(integrate="center")[0] > 0.85
    score, told = scores()
    assert score > 0.85 and told["integrate"] != "none" and told["slices"] == 2
    np.testing.assert_array_equal(other.obsm["X_stofm"], before)


def test_a_domain_that_would_vanish_stays_and_the_others_vote() -> None:
    adata, label = planted(noise=0.05)
    scattered = np.flatnonzero(label == 1)[::40]  # three cells, no two of them near each other
    noisy = np.flatnonzero(label == 2)[::9]
    before = label.copy()
    before[scattered], before[noisy] = 3, 0
    after = module.majority_vote(before, module.knn_adjacency(adata, "spatial", None))
    assert set(np.flatnonzero(after == 3)) == set(scattered)
    assert (after[noisy] == 2).mean() > 0.8


def test_neighbours_vote_only_within_a_slice() -> None:
    """Two slices lie on one another, one domain each: mixed, the smaller would be voted away."""
    rng = np.random.default_rng(0)
    adata = AnnData(np.zeros((300, 1), np.float32))
    adata.obs["section"] = np.where(np.arange(300) < 100, "a", "b")
    adata.obs["half"] = (np.arange(300) % 2).astype(str)
    adata.obsm["spatial"] = rng.uniform(0, 10, (300, 2))
    centre = rng.normal(size=(2, 6))
    adata.obsm["X_stofm"] = centre[(np.arange(300) < 100).astype(int)] + 0.1 * rng.normal(
        size=(300, 6)
    )
    apart = found(adata, 2, slice_key="section")
    assert adjusted_rand_score(adata.obs["section"], apart) == 1
    mixed = found(adata, 2)
    assert adjusted_rand_score(adata.obs["section"], mixed) < 0.95
    alone = [adata[adata.obs["section"] == s].copy() for s in "ab"]
    domains(alone, 2)
    assert [set(one.obs["stofm_domain"]) for one in alone] == [{"1"}, {"0"}]


def test_other_keys() -> None:
    adata, label = planted()
    adata.obsm["Q"], adata.obsm["xy"] = adata.obsm.pop("X_stofm"), adata.obsm.pop("spatial")
    domains(adata, 3, use_rep="Q", spatial_key="xy", key_added="region")
    assert adjusted_rand_score(label, adata.obs["region"]) > 0.95


def test_far_off_and_wide_vectors() -> None:
    adata, label = planted(shift=1e3)
    assert adjusted_rand_score(label, found(adata, 3)) > 0.95
    wide = np.zeros((adata.n_obs, 100))
    wide[:, :12] = adata.obsm["X_stofm"]
    adata.obsm["X_stofm"] = wide.astype(np.float32)
    assert adjusted_rand_score(label, found(adata, 3)) > 0.95


@pytest.mark.parametrize("n_domains", [None, 2])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_cells(n: int, n_domains: int | None) -> None:
    adata, _ = planted((n,), noise=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        domains(adata, n_domains)
    assert adata.obs["stofm_domain"].notna().all()


@pytest.mark.parametrize("n", [1, 40])
def test_alike_cells_are_one_domain_or_an_error_that_says_so(n: int) -> None:
    adata, _ = planted((n,))
    adata.obsm["X_stofm"][:] = 1.5
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            domains(adata)
    except ValueError as error:
        assert "X_stofm" in str(error)
    else:
        assert set(adata.obs["stofm_domain"]) == {"0"}


@pytest.mark.parametrize(
    ("n_domains", "error", "message"),
    [
        (1, ValueError, "n_domains=1 must lie between 2 and .*, 240"),
        (241, ValueError, r"n_domains=241 must lie between 2 and the number of .*'X_stofm'\], 240"),
        (0, ValueError, "n_domains must be above zero; found 0"),
        (2.5, TypeError, "n_domains must be a whole number; found 2.5"),
        (True, TypeError, "n_domains must be a whole number; found True"),
    ],
)
def test_bad_number(n_domains: object, error: type[Exception], message: str) -> None:
    adata, _ = planted()
    with pytest.raises(error, match=message):
        domains(adata, n_domains)  # type: ignore[arg-type]
    assert "stofm_domain" not in adata.obs


def test_no_embedding_says_what_to_run() -> None:
    adata, _ = planted()
    del adata.obsm["X_stofm"]
    with pytest.raises(KeyError, match=r"obsm has no 'X_stofm'.*embed"):
        domains(adata, 3)


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (lambda a: a.obsm.pop("spatial"), {}, KeyError, "obsm has no 'spatial'"),
        (lambda a: None, {"slice_key": "q"}, KeyError, "obs has no 'q'"),
        (
            lambda a: a.obsm["X_stofm"].__setitem__(0, np.nan),
            {},
            ValueError,
            r"obsm\['X_stofm'\] is NaN or infinite for 1 of 240 cells \(0\)",
        ),
        (
            lambda a: a.obsm["spatial"].__setitem__(0, np.inf),
            {},
            ValueError,
            r"obsm\['spatial'\] is NaN or infinite for 1 of 240",
        ),
    ],
)
def test_unfit_input(spoil, options: dict, error: type[Exception], message: str) -> None:
    adata, _ = planted()
    spoil(adata)
    with pytest.raises(error, match=message):
        domains(adata, 3, **options)


def test_what_is_no_anndata_and_what_does_not_fit_together() -> None:
    adata, _ = planted()
    with pytest.raises(ValueError, match="adata is an empty list"):
        domains([], 3)
    with pytest.raises(TypeError, match="found str; read it first"):
        domains("slice.h5ad", 3)
    with pytest.raises(TypeError, match=r"adata\[1\]: an AnnData is needed; found NoneType"):
        domains([adata, None], 3)
    with pytest.raises(ValueError, match="key_added must be a name without '/'"):
        domains(adata, 3, key_added="layers/fine")
    with pytest.raises(ValueError, match="there are no cells"):
        domains(adata[:0].copy(), 3)
    other = adata.copy()
    other.obsm["X_stofm"] = other.obsm["X_stofm"][:, :3]
    with pytest.raises(ValueError, match=r"has 3, \d+ columns in different AnnData"):
        domains([adata, other], 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ties", [0, 50, 200])
def test_rows_are_ordered_and_told_apart_as_by_all_columns(ties: int, dtype: type) -> None:
    z = np.random.default_rng(0).normal(size=(200, 5)).astype(dtype)
    z[:ties, -2:] = 0.5
    z[3:9] = z[2]
    order = row_order(z)
    np.testing.assert_array_equal(order, np.lexsort(z.T))
    assert module._count_distinct(z, order) == len(np.unique(z, axis=0))


@pytest.mark.parametrize("n_domains", [None, 3])
def test_large_slices_find_the_same(monkeypatch, n_domains: int | None) -> None:
    adata, _ = planted()
    adata.obsm["X_stofm"] = adata.obsm["X_stofm"].astype(np.float32)
    small = found(adata, n_domains)
    monkeypatch.setattr(module, "_LARGE", 100)
    monkeypatch.setattr(module, "BLOCK", 64)
    large = found(adata, n_domains)
    assert adjusted_rand_score(small, large) > 0.95
    # Whatever the order of the rows.
    rows = np.random.default_rng(1).permutation(adata.n_obs)
    np.testing.assert_array_equal(found(adata[rows].copy(), n_domains), large[rows])
