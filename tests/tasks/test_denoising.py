"""Denoising: expected counts, and a reliability that only unseen molecules give."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData
from sklearn.metrics import mean_poisson_deviance

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks.denoising.denoise import _explained
from stofm_geo.tasks.denoising.estimates import Blend, Estimates, calibrate
from stofm_geo.tasks.denoising.similar_cells import SimilarCells
from stofm_geo.tl import denoise
from tests.helpers import SMALL, make_slice


@pytest.fixture(scope="module")
def model() -> SToFM:
    """A model of another slice, so that no molecule of those below is known."""
    adata = toy_tissue(600, 40, seed=1)
    return SToFM(**SMALL, learning_rate=3e-3).fit(adata, max_steps=60, progress=False)


@pytest.fixture
def adata() -> AnnData:
    return toy_tissue(400, 40, seed=0)


def denoised(adata: AnnData, model: SToFM, **options) -> AnnData:
    denoise(adata, model, progress=False, **options)
    return adata


def test_expected_counts_have_the_size_of_a_cell(adata, model) -> None:
    before = adata.X.copy()
    layer = denoised(adata, model).layers["stofm_denoised"]
    assert layer.dtype == np.float32 and layer.shape == adata.shape
    assert (layer >= 0).all()
    np.testing.assert_allclose(layer.sum(axis=1), np.asarray(before.sum(axis=1)).ravel(), rtol=1e-4)
    assert (adata.X != before).nnz == 0
    assert "X_stofm" not in adata.obsm and "stofm" not in adata.uns


def test_they_are_nearer_to_the_expression_than_counts_are() -> None:
    # Cells of four types in two halves, whose expression is known.
    random = np.random.default_rng(0)
    types = random.gamma(0.5, 1, (4, 30))
    n = 900
    pos = random.uniform(0, 100, (n, 2))
    kind = random.integers(2, size=n) + 2 * (pos[:, 0] > 50)
    rate = types[kind] / types[kind].sum(axis=1, keepdims=True)
    counts = random.poisson(40 * rate)
    adata = AnnData(sp.csr_matrix(counts.astype(np.float32)), obsm={"spatial": pos})
    adata.var_names = [f"gene{i}" for i in range(30)]
    denoise(adata, progress=False, max_steps=40)
    found = adata.layers["stofm_denoised"]
    fractions = found / found.sum(axis=1, keepdims=True)
    raw = counts / counts.sum(axis=1, keepdims=True)
    assert np.square(fractions - rate).mean() < 0.25 * np.square(raw - rate).mean()
    assert adata.uns["stofm_denoised"]["d2"] > 0.15
    best = adata.var["stofm_denoised_d2"].idxmax()
    assert adata.var["stofm_denoised_d2"][best] > 0.3


def test_of_noise_nothing_is_explained() -> None:
    adata = make_slice(500, 30)
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    random = np.random.default_rng(0)
    adata.X = sp.csr_matrix(random.poisson(np.tile(mean, (500, 1))).astype(np.float32))
    denoise(adata, progress=False, max_steps=40)
    assert abs(adata.uns["stofm_denoised"]["d2"]) < 0.02
    layer = adata.layers["stofm_denoised"]
    fractions = layer / layer.sum(axis=1, keepdims=True)
    assert np.abs(fractions / fractions.mean(axis=0) - 1).mean() < 0.1


def test_explained_deviance_against_scikit_learn() -> None:
    random = np.random.default_rng(0)
    counts = random.poisson(2, (50, 8)).astype(float)
    fractions = random.dirichlet(np.full(8, 5), 50)
    mean = random.dirichlet(np.full(8, 5))

    class Found:
        def __init__(self) -> None:
            self.mean = mean

        def fractions(self, rows: slice) -> np.ndarray:
            return fractions[rows]

    of_genes, of_cells, overall = _explained(Found(), sp.csr_matrix(counts))
    total = counts.sum(axis=1, keepdims=True)
    expected, average = total * fractions, total * mean

    def d2(where) -> float:
        of_model, of_mean = (
            mean_poisson_deviance(counts[where].ravel(), one[where].ravel())
            for one in (expected, average)
        )
        return 1 - of_model / of_mean

    assert overall == pytest.approx(d2(slice(None)))
    np.testing.assert_allclose(of_genes, [d2((slice(None), g)) for g in range(8)])
    full = np.flatnonzero(total.ravel())
    np.testing.assert_allclose(of_cells[full], [d2(i) for i in full])


def test_of_cells_that_are_alike_nothing_is_explained_by_another_mean(adata, model) -> None:
    # Another chemistry: each gene has a factor. The mean of the model's cells is not that of these.
    random = np.random.default_rng(0)
    share = np.asarray(adata.X.sum(axis=0)).ravel() * np.exp(random.normal(0, 1, adata.n_vars))
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.X = sp.csr_matrix(random.poisson(np.outer(total, share / share.sum())).astype(np.float32))
    denoised(adata, model)
    assert adata.uns["stofm_denoised"]["d2"] < 0.01
    counts = np.asarray(adata.X.sum(axis=0)).ravel()
    ratio = (adata.layers["stofm_denoised"].sum(axis=0) / counts)[counts > 300]
    assert len(ratio) > 20 and 0.9 < ratio.min() and ratio.max() < 1.1


def test_a_gene_that_the_model_has_never_seen_gets_its_mean(adata) -> None:
    without = adata.copy()
    without.X = sp.csr_matrix(without.X.toarray() * (np.arange(adata.n_vars) != 2))
    model = SToFM(**SMALL).fit(without, max_steps=2, progress=False)
    expected = float(adata.X[:, [2]].sum())
    found = denoised(adata, model).layers["stofm_denoised"][:, 2]
    assert found.sum() == pytest.approx(expected, rel=0.1)
    assert np.isfinite(adata.var["stofm_denoised_d2"].iloc[2])


def test_what_was_not_split_off_has_no_reliability(adata, model) -> None:
    counts = adata.X.toarray()
    counts[:, 5] = 0
    adata.X = sp.csr_matrix(counts)
    assert np.isnan(denoised(adata, model).var["stofm_denoised_d2"].iloc[5])


def test_reliabilities_are_written(adata, model) -> None:
    denoised(adata, model)
    of_genes, of_cells = adata.var["stofm_denoised_d2"], adata.obs["stofm_denoised_d2"]
    assert of_genes.notna().all() and of_cells.notna().mean() > 0.95
    assert 0 < adata.uns["stofm_denoised"]["d2"] < 1
    assert adata.uns["stofm_denoised"]["weights_sha256"] == model.weights_hash()


def test_some_genes_as_a_table(adata, model) -> None:
    whole = denoised(adata.copy(), model).layers["stofm_denoised"]
    names = list(adata.var_names[[7, 3]])
    table = denoised(adata, model, genes=names).obsm["stofm_denoised"]
    assert list(table.columns) == names and list(table.index) == list(adata.obs_names)
    np.testing.assert_allclose(table.to_numpy(), whole[:, [7, 3]], rtol=1e-5)
    assert "stofm_denoised" not in adata.layers


def test_counts_in_a_layer_and_slices(model) -> None:
    adata = toy_tissue(400, 40, 2, seed=0)
    expected = denoised(adata.copy(), model, slice_key="slice_id").layers["stofm_denoised"]
    adata.layers["raw"] = adata.X.copy()
    adata.X = sp.csr_matrix(np.log1p(adata.X))
    found = denoised(adata, model, slice_key="slice_id", layer="raw")
    np.testing.assert_array_equal(found.layers["stofm_denoised"], expected)


def test_cells_without_counts_and_unknown_columns(adata, model) -> None:
    counts = adata.X.tolil()
    counts[5] = 0
    probe = sp.csr_matrix(np.ones((adata.n_obs, 1), dtype=np.float32))
    probe[5] = 0
    other = AnnData(
        sp.hstack([counts.tocsr(), probe], format="csr"), adata.obs, obsm=dict(adata.obsm)
    )
    other.var_names = [*adata.var_names, "NegControlProbe_1"]
    other.X.eliminate_zeros()
    with pytest.warns(UserWarning, match="1 of 400 cells have no counts"):
        denoise(other, model, progress=False)
    layer = other.layers["stofm_denoised"]
    assert np.isnan(layer[:, -1]).all() and (layer[5, :-1] == 0).all()
    assert np.isfinite(np.delete(layer[:, :-1], 5, axis=0)).all()
    assert np.isnan(other.obs["stofm_denoised_d2"].iloc[5])


def test_the_same_seed_gives_the_same_numbers(adata, model) -> None:
    first, second = (denoised(adata.copy(), model, seed=3) for _ in range(2))
    assert first.layers["stofm_denoised"].tobytes() == second.layers["stofm_denoised"].tobytes()
    other = denoised(adata.copy(), model, seed=4)
    assert other.uns["stofm_denoised"]["d2"] != first.uns["stofm_denoised"]["d2"]


def test_bad_input(adata, model) -> None:
    with pytest.raises(ValueError, match="only of whole counts, and counts are fractions"):
        fractions = adata.copy()
        fractions.X = fractions.X * 0.3
        denoise(fractions, model)
    with pytest.raises(KeyError, match="var_names has no nothing; it has"):
        denoise(adata, model, genes=["nothing"])
    with pytest.raises(ValueError, match="genes is empty"):
        denoise(adata, model, genes=[])
    with pytest.raises(ValueError, match=r"lacks 38 of the model's 40 genes .* leave model out"):
        denoise(adata[:, :2].copy(), model)
    with pytest.raises(ValueError, match="key_added is 'raw', as is layer"):
        adata.layers["raw"] = adata.X.copy()
        denoise(adata, model, layer="raw", key_added="raw")
    niches = SToFM(**SMALL, objectives="niches").fit(adata, max_steps=1, progress=False)
    with pytest.raises(ValueError, match="trained for 'niches', which does not denoise"):
        denoise(adata, niches)
    mini = SToFM.from_pretrained("stofm-geo-mini")
    with pytest.raises(ValueError, match="has the encoder 'panel', which does not denoise"):
        denoise(adata, mini)
    with pytest.raises(TypeError, match=r"found str; load one with SToFM.from_pretrained"):
        denoise(adata, "folder")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="has no 'spots'"):
        denoise(adata, model, spatial_key="spots")


def test_means_of_similar_cells() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    counts = random.poisson(2, (60, 7)).astype(np.float32)
    counts[4] = 0  # is near to others, and adds nothing to their means
    similar = SimilarCells(x, sp.csr_matrix(counts), 20)
    found = list(similar.means(slice(10, 30), [1, 5, 50]))
    pool = np.delete(np.arange(60), 4)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for number, means in zip([1, 5, 20], found, strict=True):
        for i, row in enumerate(range(10, 30)):
            order = pool[np.linalg.norm(x[pool] - x[row], axis=1).argsort()][:number]
            np.testing.assert_allclose(means[i], fractions[order].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[0], fractions[10:30], rtol=1e-6)  # itself


def test_similar_cells_are_sought_among_some_of_many(monkeypatch) -> None:
    monkeypatch.setattr("stofm_geo.tasks.denoising.similar_cells._MOST_CELLS", 100)
    random = np.random.default_rng(0)
    kind = np.repeat([0, 1], 1000)
    counts = sp.csr_matrix(np.eye(2)[kind] * 5)
    similar = SimilarCells(kind[:, None] + random.normal(0, 0.01, (2000, 1)), counts, 10)
    (means,) = similar.means(slice(0, 2000), [10])
    assert similar.fractions.shape == (100, 2)
    np.testing.assert_allclose(means, np.eye(2)[kind])


def test_the_blend_is_the_best_on_the_molecules_asked_for(adata, model) -> None:
    random = np.random.default_rng(0)
    target = sp.csr_matrix(random.poisson(adata.X.toarray() / 4).astype(np.float32))
    mean = np.asarray(adata.X.sum(axis=0)).ravel() / adata.X.sum()
    estimates = Estimates(model, adata, mean, progress=False)
    everything = slice(0, adata.n_obs)
    counts = target.toarray()
    total = counts.sum(axis=1, keepdims=True)

    def error(blend: Blend) -> float:
        estimates.blend = blend
        rest = counts - total * estimates.fractions(everything)
        return float((rest**2 / np.maximum(total, 1) / mean).sum())

    options = [Blend(k, w) for k in (10, 20, 30, 50) for w in (0.15, 0.3, 0.5, 0.7)]
    expected = min([Blend(0, 0.0), *options], key=error)
    estimates.blend = Blend(0, 0.0)
    found, slope = calibrate(estimates, target)
    assert found == expected and found.weight > 0
    assert slope.shape == mean.shape and (0 <= slope).all() and (slope <= 1).all()


def test_blocks_of_rows_change_nothing(adata, model, monkeypatch) -> None:
    whole = denoised(adata.copy(), model)
    monkeypatch.setattr("stofm_geo.tasks.denoising.estimates._ELEMENTS", 40 * 37)
    parts = denoised(adata, model)
    np.testing.assert_allclose(
        parts.layers["stofm_denoised"], whole.layers["stofm_denoised"], rtol=1e-5
    )
    assert parts.uns["stofm_denoised"]["d2"] == pytest.approx(whole.uns["stofm_denoised"]["d2"])
