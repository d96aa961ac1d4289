"""Integration of slices: what each method does, and when ``auto`` takes it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from anndata import AnnData, read_h5ad

from stofm_geo.tasks import integration as module
from stofm_geo.tasks.agreement import Agreement
from stofm_geo.tasks.integration import choose
from stofm_geo.tl import integrate

METHODS = [
    "none",
    "center",
    pytest.param(
        "harmony",
        marks=pytest.mark.skipif(find_spec("harmonypy") is None, reason="needs harmonypy"),
    ),
]


def tissues(shift: float, seed: int = 0, n: int = 150) -> list[AnnData]:
    """Three slices of one tissue; the embedding is a smooth function of place, and a shift."""
    rng = np.random.default_rng(seed)
    waves, towards = rng.normal(size=(2, 12)), rng.normal(size=(3, 12))
    made = []
    for number in range(3):
        positions = rng.uniform(0, 3, (n + 10 * number, 2))
        adata = AnnData(np.zeros((len(positions), 1), np.float32))
        z = np.sin(positions @ waves) + 0.05 * rng.normal(size=(len(positions), 12))
        adata.obsm["X_stofm"] = (z + shift * towards[number]).astype(np.float32)
        adata.obsm["spatial"] = positions
        made.append(adata)
    return made


def all_of(adatas: list[AnnData], key: str = "X_stofm_integrated") -> np.ndarray:
    return np.concatenate([one.obsm[key] for one in adatas])


def test_centred_slices_have_one_mean_and_their_own_differences() -> None:
    adatas = tissues(3.0)
    integrate(adatas, method="center")
    mean = all_of(adatas, "X_stofm").mean(axis=0)
    for one in adatas:
        before, after = one.obsm["X_stofm"], one.obsm["X_stofm_integrated"]
        np.testing.assert_allclose(after.mean(axis=0), mean, atol=1e-4)
        np.testing.assert_allclose(np.ptp(before - after, axis=0), 0, atol=1e-5)
        assert after.dtype == np.float32


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_input_stays_and_what_was_done_is_told(method: str, tmp_path) -> None:
    adatas = tissues(3.0)
    before = all_of(adatas, "X_stofm")
    integrate(adatas, method=method)
    np.testing.assert_array_equal(all_of(adatas, "X_stofm"), before)
    adatas[0].write_h5ad(tmp_path / "a.h5ad")
    told = read_h5ad(tmp_path / "a.h5ad").uns["X_stofm_integrated"]
    assert told["slices"] == 3 and (method == "auto" or told["integrate"] == method)
    assert (np.abs(all_of(adatas) - before).max() == 0) == (told["integrate"] == "none")
    assert ("none" in told) == (method == "auto")


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_the_order_of_the_rows_and_a_list_or_a_key_do_not_matter(method: str) -> None:
    adatas = tissues(1.0)
    z = all_of(adatas, "X_stofm")
    one = AnnData(np.zeros((len(z), 1), np.float32))
    one.obsm["X_stofm"], one.obsm["spatial"] = z, all_of(adatas, "spatial")
    one.obs["section"] = np.repeat(["a", "b", "c"], [a.n_obs for a in adatas])
    order = np.random.default_rng(1).permutation(len(z))
    other = one[order].copy()
    integrate(adatas, method=method)
    integrate(other, method=method, slice_key="section")
    np.testing.assert_array_equal(other.obsm["X_stofm_integrated"], all_of(adatas)[order])


def test_auto_leaves_slices_with_neighbours_and_mends_those_that_lie_apart() -> None:
    for shift, least, most in ((0.0, 0.8, 1.2), (0.5, 0.05, 0.3)):
        adatas = tissues(shift)
        integrate(adatas)
        told = adatas[0].uns["X_stofm_integrated"]
        assert told["integrate"] == "none" and least < told["none"]["mixing"] < most
        assert set(told) == {"slices", "integrate", "none"}  # nothing else was tried
    adatas = tissues(3.0)
    integrate(adatas)
    told = adatas[0].uns["X_stofm_integrated"]
    assert told["integrate"] != "none" and told["none"]["mixing"] < 0.05
    assert told[told["integrate"]]["mixing"] > 0.7


def test_what_mixes_without_correspondence_is_not_chosen() -> None:
    apart, noise = Agreement(0.0, 0.2), Agreement(1.0, 0.05)
    assert choose({"none": apart, "center": noise}) == "none"
    assert choose({"none": apart, "center": noise, "harmony": Agreement(0.6, 0.5)}) == "harmony"
    assert choose({"none": Agreement(0.1, 0.2), "harmony": Agreement(1.0, 1.0)}) == "none"


def test_auto_leaves_noise() -> None:
    adatas = tissues(0.0)
    rng = np.random.default_rng(0)
    for i, one in enumerate(adatas):
        one.obsm["X_stofm"] = rng.normal(size=(one.n_obs, 12)) + i
    integrate(adatas)
    assert adatas[0].uns["X_stofm_integrated"]["integrate"] == "none"


@pytest.mark.parametrize(("shift", "least"), [(0.5, 0.4), (30.0, 0.9)])
def test_harmony_mixes_slices_with_and_without_clusters_in_common(
    shift: float, least: float
) -> None:
    pytest.importorskip("harmonypy", reason="needs harmonypy")
    adatas = tissues(shift)
    integrate(adatas, method="harmony", key_added="z")
    integrate(adatas, use_rep="X_stofm", key_added="before")
    integrate(adatas, use_rep="z", key_added="after")
    before, after = (adatas[0].uns[key]["none"]["mixing"] for key in ("before", "after"))
    assert before < 0.2 and after > least


def test_cells_without_an_embedding_stay_0_and_change_nothing() -> None:
    adatas, fewer = tissues(3.0), tissues(3.0)
    adatas[1].obsm["X_stofm"][:5] = 0
    fewer[1] = fewer[1][5:].copy()
    integrate(adatas)
    integrate(fewer)
    assert not adatas[1].obsm["X_stofm_integrated"][:5].any()
    np.testing.assert_array_equal(
        adatas[1].obsm["X_stofm_integrated"][5:], fewer[1].obsm["X_stofm_integrated"]
    )


def test_one_slice_is_left_as_it_is() -> None:
    (one, *_) = tissues(0.0)
    integrate(one, method="center")
    assert one.uns["X_stofm_integrated"] == {"slices": 1, "integrate": "none"}
    np.testing.assert_array_equal(one.obsm["X_stofm_integrated"], one.obsm["X_stofm"])


def test_without_harmonypy(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    adatas = tissues(3.0)
    with pytest.raises(ImportError, match=r"method='harmony' needs harmonypy: pip install"):
        integrate(adatas, method="harmony")
    integrate(adatas)
    assert "harmony" not in adatas[0].uns["X_stofm_integrated"]
    # Two slices of different tissues, which no shift can mix.
    for one, spread in zip(adatas, (1, 30, 900), strict=True):
        one.obsm["X_stofm"] *= spread
    with pytest.warns(UserWarning, match=r"the 3 slices hardly mix .* pip install 'stofm-geo"):
        integrate(adatas)


def test_unfit_input() -> None:
    adatas = tissues(0.0)
    with pytest.raises(ValueError, match=r"method must be one of .*; found 'scvi'"):
        integrate(adatas, method="scvi")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="key_added is 'X_stofm', as is use_rep"):
        integrate(adatas, key_added="X_stofm")
    with pytest.raises(KeyError, match=r"obsm has no 'X_pca'"):
        integrate(adatas, use_rep="X_pca")


def test_words() -> None:
    record = {
        "slices": 4,
        "integrate": "harmony",
        "none": {"mixing": 0.234, "correspondence": 0.8},
        "harmony": {"mixing": 0.857, "correspondence": 0.9},
    }
    told = " over 4 slices jointly (integrate: harmony, mixing 0.86 instead of 0.23)"
    assert module.describe(record) == told
    told = " over 4 slices jointly (integrate: none, mixing 0.23)"
    assert module.describe({**record, "integrate": "none"}) == told
    told = " over 2 slices jointly (integrate: center)"
    assert module.describe({"slices": 2, "integrate": "center"}) == told
    assert module.describe({"slices": 1, "integrate": "none"}) == ""


def test_embeddings_of_different_models_are_refused() -> None:
    slices = [one.copy() for one in tissues(0.0)[:2]]
    for weights, one in zip("ab", slices, strict=True):
        one.uns["stofm"] = {"weights_sha256": 64 * weights}
    with pytest.raises(ValueError, match="is of different models, weights aaaaaaaaaaaa"):
        integrate(slices)
    assert "X_stofm_integrated" not in slices[0].obsm
