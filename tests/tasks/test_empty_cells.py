"""Cells without counts (empty bins) take no part; what is said of them is their neighbours'."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from stofm_geo import SToFM, tl
from stofm_geo.data.corpus.sources import find_sources, read_slice, slices_of
from stofm_geo.datasets import toy_tissue
from stofm_geo.models.attention import attention_of
from stofm_geo.tasks import fine_tune
from stofm_geo.tasks._empty import nearest_full
from tests.helpers import SMALL

SETTINGS = {**SMALL, "cells_per_subslice": 300}
WORD = r"of 800 cells have no counts and are left out"


def emptied(tissue: AnnData, share: float) -> tuple[AnnData, np.ndarray]:
    """A copy, some of whose cells are empty, and which are not."""
    full = np.random.default_rng(0).random(tissue.n_obs) >= share
    kept = tissue.copy()
    kept.X = sp.csr_matrix(tissue.X.multiply(full[:, None]))
    return kept, full


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    return toy_tissue(800, 80, seed=1)


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("encoder", ["pca", "panel"])
def test_the_rest_is_as_if_they_were_left_out(tissue, share, encoder) -> None:
    kept, full = emptied(tissue, share)
    dropped = kept[full].copy()
    with pytest.warns(UserWarning, match=rf"{(~full).sum()} {WORD}"):
        model = SToFM(encoder=encoder, **SETTINGS).fit(kept, max_steps=3, progress=False)
    alone = SToFM(encoder=encoder, **SETTINGS).fit(dropped, max_steps=3, progress=False)
    assert model.weights_hash() == alone.weights_hash()
    with pytest.warns(UserWarning, match=WORD):
        model.embed(kept)
    alone.embed(dropped)
    np.testing.assert_array_equal(kept.obsm["X_stofm"][full], dropped.obsm["X_stofm"])
    assert not kept.obsm["X_stofm"][~full].any()
    with pytest.warns(UserWarning, match=rf"{(~full).sum()} of 800 cells have no embedding"):
        tl.domains(kept, 6)
    tl.domains(dropped, 6)
    found = kept.obs["stofm_domain"]
    assert (found[full].to_numpy() == dropped.obs["stofm_domain"].to_numpy()).all()
    assert found.notna().all()
    near = nearest_full(kept.obsm["spatial"], np.zeros(800, int), full, 18)
    for row in np.flatnonzero(~full)[:20]:
        votes = found.iloc[near[row].indices].value_counts()
        assert votes[found.iloc[row]] == votes.max()


def test_domains_of_empty_bins_are_those_of_their_regions() -> None:
    tissue = toy_tissue(1500, 80, seed=2)
    kept, full = emptied(tissue, 0.6)
    kept.obsm["X_stofm"] = np.zeros((1500, 6), np.float32)
    codes = kept.obs["region"].cat.codes.to_numpy()
    noise = np.random.default_rng(0).normal(0, 0.1, (1500, 6))
    kept.obsm["X_stofm"][full] = (np.eye(6)[codes] + noise)[full]
    with pytest.warns(UserWarning, match="get the domain of their nearest cells"):
        tl.domains(kept, 6)
    score = [adjusted_rand_score(codes[at], kept.obs["stofm_domain"][at]) for at in (full, ~full)]
    assert min(score) > 0.6


def test_a_slice_that_is_all_empty_gets_no_domain() -> None:
    rng = np.random.default_rng(0)
    adata = AnnData(obs=pd.DataFrame({"slice_id": ["a"] * 40 + ["b"] * 20}))
    adata.obsm["spatial"] = rng.uniform(0, 10, (60, 2))
    adata.obsm["X_stofm"] = rng.normal(size=(60, 4))
    adata.obsm["X_stofm"][40:] = 0
    with pytest.warns(UserWarning, match="20 of 60 .* 20 of them, in slices without any other"):
        tl.domains(adata, 2, slice_key="slice_id")
    assert adata.obs["stofm_domain"][:40].notna().all()
    assert adata.obs["stofm_domain"][40:].isna().all()
    adata.obsm["X_stofm"][:] = 0
    with pytest.raises(ValueError, match=r"all 60 vectors in obsm\['X_stofm'\] are 0"):
        tl.domains(adata, 2)


@pytest.mark.filterwarnings("ignore:.*have no counts")
@pytest.mark.parametrize("task", ["region", "cell_type"])
def test_labels_of_empty_bins(tissue, task, tmp_path) -> None:
    kept, full = emptied(tissue, 0.5)
    model = SToFM(**SETTINGS).fit(kept, max_steps=3, progress=False)
    annotator = fine_tune(model, kept, task, task=task, progress=False)
    assert annotator.record["labelled_cells"] == full.sum()
    annotator.predict(kept)
    label, p = kept.obs["stofm_label"], kept.obsm["stofm_label_probability"]
    scores = annotator.evaluate(kept, task)
    right = (label.astype(str) == kept.obs[task].astype(str)).to_numpy()
    if task == "cell_type":
        assert label[~full].isna().all() and np.isnan(p[~full]).all()
        assert scores["cells"] == full.sum()
        assert scores["accuracy"] == pytest.approx(right[full].mean())
    else:
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
        assert right[~full].mean() > 0.7
        assert scores["accuracy"] == pytest.approx(right.mean())
    assert label[full].notna().all()
    kept.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="has no counts, and attends to none"):
        attention_of(model, kept, int(np.flatnonzero(~full)[0]))


def test_cells_without_counts_of_shared_genes_are_empty(tissue) -> None:
    first, second = tissue[:, :70].copy(), tissue[:, 10:].copy()
    lost = np.arange(800) < 200
    counts = first.X.toarray()
    counts[lost, 10:] = 0  # whose counts are of genes that the other has not
    counts[lost, 0] = 1
    first.X = sp.csr_matrix(counts)
    with pytest.warns(UserWarning, match="200 of 800 cells have no counts of the model's genes"):
        model = SToFM(**SETTINGS).fit([first, second], max_steps=2, progress=False)
    alone = SToFM(**SETTINGS).fit([first[~lost].copy(), second], max_steps=2, progress=False)
    assert model.weights_hash() == alone.weights_hash()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*have no counts")
def test_a_reference_with_empty_bins_tells_the_same(tissue) -> None:
    reference, full = emptied(tissue, 0.5)
    spots, panel = toy_tissue(300, 80, seed=3), toy_tissue(300, 80, seed=3)[:, :60].copy()
    rest = reference[full].copy()
    each = []
    for one in (reference, rest):
        tl.deconvolve(spots, one)
        tl.impute(panel, one)
        each.append((spots.obsm["stofm_proportions"], panel.obsm["stofm_imputed"]))
    pd.testing.assert_frame_equal(each[0][0], each[1][0])
    pd.testing.assert_frame_equal(each[0][1], each[1][1])


def test_imputed_genes_of_empty_bins_are_the_mean(tissue) -> None:
    panel, full = emptied(toy_tissue(800, 80, seed=3), 0.5)
    panel = panel[:, :60].copy()
    rest = panel[full].copy()
    with pytest.warns(UserWarning, match=rf"{(~full).sum()} of 800 cells have no counts of shared"):
        tl.impute(panel, tissue)
    tl.impute(rest, tissue)
    expected = rest.obsm["stofm_imputed"].to_numpy()
    found = panel.obsm["stofm_imputed"].to_numpy()
    np.testing.assert_array_equal(found[full], expected)
    mean = np.tile(expected.mean(axis=0), ((~full).sum(), 1))
    np.testing.assert_allclose(found[~full], mean, rtol=1e-5)


def test_as_near_as_the_last_are_asked_too() -> None:
    pos = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [3, 0]], dtype=float)
    full = np.array([False, True, True, True, True, True])
    assert nearest_full(pos, np.zeros(6, int), full, 2)[0].indices.tolist() == [1, 2, 3, 4]
    assert nearest_full(pos, np.array([0, 1, 1, 1, 1, 1]), full, 2).nnz == 0
    assert nearest_full(pos, np.zeros(6, int), np.ones(6, bool), 2).nnz == 0


def test_a_corpus_has_cells_with_counts_alone(tissue, tmp_path) -> None:
    kept, full = emptied(tissue, 0.5)
    kept.write_h5ad(tmp_path / "a.h5ad")
    (which,) = slices_of(find_sources([tmp_path / "a.h5ad"], organism="none")[0])
    with pytest.warns(UserWarning, match=rf"{(~full).sum()} of 800 cells have no counts"):
        own = read_slice(which)
    np.testing.assert_array_equal(np.sort(own.row), np.flatnonzero(full))
    names = np.argsort(kept.var_names)
    assert own.counts.shape == (full.sum(), 80) and len(own.pos) == full.sum()
    expected = kept.X.toarray()[own.row][:, names]
    np.testing.assert_array_equal(own.counts[np.arange(full.sum())].toarray(), expected)
