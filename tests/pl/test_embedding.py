"""Embeddings in the plane: components without UMAP, UMAP with it, and what colours them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stofm_geo.datasets import toy_tissue
from stofm_geo.pl import embedding, spatial


@pytest.fixture
def tissue() -> ad.AnnData:
    adata = toy_tissue(200, 10)
    adata.obsm["X_stofm"] = np.random.default_rng(0).normal(size=(200, 8)) * np.arange(8, 0, -1)
    return adata


@pytest.fixture
def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)


def test_components_where_there_is_no_umap(
    tissue: ad.AnnData, without_umap: None, tmp_path: Path
) -> None:
    ax = embedding(tissue, color="region", save=tmp_path / "a.png")
    share = tissue.obsm["X_stofm"].var(axis=0)
    told = f"first principal component ({share.max() / share.sum():.0%} of the variance)"
    assert ax.get_xlabel() == told and ax.get_ylabel().startswith("second principal component")
    plane = ax.collections[0].get_offsets()
    assert plane.shape == (200, 2) and ax.get_aspect() == 1
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == sorted(tissue.obs["region"].unique())
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert box.y1 <= ax.figure.bbox.y1 and box.x1 <= ax.figure.bbox.x1
    again = embedding(tissue, color="region").collections[0].get_offsets()
    np.testing.assert_array_equal(plane, again)


def test_umap_where_it_is(tissue: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    class UMAP:
        def __init__(self, n_neighbors: int, random_state: int) -> None:
            assert (n_neighbors, random_state) == (15, 7)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    ax = embedding(tissue, seed=7)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")


@pytest.mark.parametrize("width", [1, 2])
def test_narrow_vectors_and_numbers(tissue: ad.AnnData, without_umap: None, width: int) -> None:
    tissue.obsm["few"] = tissue.obsm["X_stofm"][:, :width]
    ax = embedding(tissue, "few", "depth")
    assert len(ax.figure.axes) == 2  # a colour bar
    assert ax.collections[0].get_offsets().shape == (200, 2)


def test_a_column_of_obsm_colours_cells(tissue: ad.AnnData) -> None:
    assert spatial(tissue, "X_stofm:3").get_title() == "X_stofm:3"
    tissue.obsm["shares"] = pd.DataFrame({"B cell": tissue.obs["depth"]}, index=tissue.obs_names)
    by_name = spatial(tissue, "shares:B cell").collections[0].get_facecolors()
    np.testing.assert_array_equal(by_name, spatial(tissue, "depth").collections[0].get_facecolors())
    with pytest.raises(KeyError, match="0 columns '8'; it has 0, 1, 2"):
        spatial(tissue, "X_stofm:8")


def test_bad_data(tissue: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"obsm has no 'X'.*run SToFM.embed first"):
        embedding(tissue, "X")
    with pytest.raises(ValueError, match="2 cells are too few"):
        embedding(tissue[:2])
    tissue.obsm["X_stofm"][0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite for 1 of 200 cells"):
        embedding(tissue)
