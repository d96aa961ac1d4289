"""Counts in a layer give what the same counts in X give, and X stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from stofm_geo import SToFM, tl
from stofm_geo.datasets import toy_tissue

TINY = {"hidden_channels": 16, "out_channels": 32, "heads": 2, "num_layers": 1, "n_components": 6}


def in_layer(adata: AnnData) -> AnnData:
    other = adata.copy()
    other.layers["counts"] = other.X.copy()
    other.X = np.log1p(other.X)
    return other


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return toy_tissue(240, 40, seed=0)


@pytest.mark.slow
def test_fit_embed_and_annotate(adata) -> None:
    plain, other = adata.copy(), in_layer(adata)
    logs = other.X.copy()
    with pytest.raises(ValueError, match=r"log-transformed.*layer='counts'"):
        SToFM(**TINY).fit(other, max_steps=2, progress=False)
    with pytest.raises(KeyError, match=r"layers has no 'raw' \(counts\); it has \['counts'\]"):
        SToFM(**TINY).fit(other, layer="raw", max_steps=2, progress=False)
    with pytest.raises(ValueError, match="AnnData: layer='counts' and use_rep='X_pca'; give one"):
        SToFM(**TINY).fit(other, use_rep="X_pca", layer="counts", progress=False)
    for one, layer in ((plain, None), (other, "counts")):
        model = SToFM(**TINY).fit(one, layer=layer, max_steps=2, progress=False)
        model.embed(one, layer=layer)
        annotator = tl_fine_tune(model, one, layer)
        annotator.predict(one, layer=layer)
        one.uns["score"] = annotator.evaluate(one, "region", layer=layer)["accuracy"]
    assert np.array_equal(plain.obsm["X_stofm"], other.obsm["X_stofm"])
    assert (plain.obs["stofm_label"] == other.obs["stofm_label"]).all()
    assert plain.uns["score"] == other.uns["score"]
    assert (other.X != logs).nnz == 0


def tl_fine_tune(model: SToFM, adata: AnnData, layer: str | None):
    from stofm_geo.tasks import fine_tune

    return fine_tune(model, adata, "region", layer=layer, progress=False)


@pytest.mark.slow
def test_deconvolve_and_impute(adata) -> None:
    reference = toy_tissue(200, 40, seed=1)
    half = adata[:, :30].copy()
    expected, found = half.copy(), in_layer(half)
    other = in_layer(reference)
    for one, known, layers in (
        (expected, reference, {}),
        (found, other, {"layer": "counts", "reference_layer": "counts"}),
    ):
        tl.deconvolve(one, known, "region", **layers)
        tl.impute(one, known, **layers)
    for key in ("stofm_proportions", "stofm_imputed"):
        assert np.array_equal(expected.obsm[key].to_numpy(), found.obsm[key].to_numpy())
