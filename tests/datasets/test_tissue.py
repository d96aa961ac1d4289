from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from stofm_geo.datasets import toy_tissue

ROOT = Path(__file__).parents[2]


def fingerprint(adata: ad.AnnData) -> str:
    parts = [adata.X.data, adata.X.indices, adata.X.indptr, adata.obsm["spatial"]]
    parts += [adata.obs[key].cat.codes.to_numpy() for key in ("region", "cell_type", "slice_id")]
    parts += [adata.obs["depth"].to_numpy()]
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    return toy_tissue(1501, 60, 3, seed=4)


def test_contents(tissue: ad.AnnData) -> None:
    assert tissue.shape == (1501, 60)
    assert sparse.isspmatrix_csr(tissue.X) and tissue.X.dtype == np.int32
    assert tissue.X.has_canonical_format and tissue.X.data.min() > 0
    assert tissue.obs_names.is_unique and tissue.var_names.is_unique
    assert tissue.var_names[0] == "Gene0001"
    regions = ["L1", "L2", "L3", "L4", "L5", "Lesion"]
    assert list(tissue.obs["region"].cat.categories) == regions
    assert set(tissue.obs["region"]) == set(regions)
    assert tissue.obs["cell_type"].nunique() == 10
    assert tissue.obs["slice_id"].value_counts(sort=False).tolist() == [501, 500, 500]
    assert tissue.obs["depth"].between(0, 1).all()
    assert tissue.obsm["spatial"].shape == (1501, 2)
    assert tissue.obsm["spatial"].dtype == np.float64
    assert tissue.uns["spatial_unit"] == "um"
    assert tissue.uns["toy"] == {
        "n_cells": 1501,
        "n_genes": 60,
        "n_slices": 3,
        "n_layers": 5,
        "seed": 4,
    }


def test_layers_follow_depth(tissue: ad.AnnData) -> None:
    layers = tissue.obs[tissue.obs["region"] != "Lesion"]
    ranges = layers.groupby("region", observed=True)["depth"].agg(["min", "max"])
    assert (ranges["max"].to_numpy()[:-1] <= ranges["min"].to_numpy()[1:]).all()


def test_places_are_distinct_cells_in_micrometres(tissue: ad.AnnData) -> None:
    for name in tissue.obs["slice_id"].cat.categories:
        xy = tissue.obsm["spatial"][tissue.obs["slice_id"] == name]
        nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
        assert nearest.min() > 1
        assert 6 < np.median(nearest) < 15


def test_order_of_cells_says_nothing_about_place(tissue: ad.AnnData) -> None:
    depth = tissue.obs["depth"].to_numpy()[:501]
    assert abs(np.corrcoef(depth, np.arange(501))[0, 1]) < 0.15


def test_same_seed_same_bytes() -> None:
    assert fingerprint(toy_tissue(300, 20, 2, seed=1)) == fingerprint(
        toy_tissue(300, 20, 2, seed=1)
    )
    assert fingerprint(toy_tissue(300, 20, 2, seed=1)) != fingerprint(
        toy_tissue(300, 20, 2, seed=2)
    )


_ON_ANY_PROCESSOR = """
import numpy as np
from stofm_geo.datasets import toy_tissue
tissue = toy_tissue(300, 40, n_slices=2, seed=3)
np.save({file!r}, np.column_stack([tissue.X.toarray(), tissue.obsm["spatial"]]))
"""


@pytest.mark.slow
def test_the_seed_says_all_on_any_processor(tmp_path) -> None:
    """NumPy partitions and sorts with the instructions that there are, and orders ties by them."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    there = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
    found = []
    for disabled in ([], there):
        file = str(tmp_path / f"{len(disabled)}.npy")
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(disabled)}
        code = _ON_ANY_PROCESSOR.format(file=file)
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=ROOT)
        found.append(np.load(file))
    np.testing.assert_array_equal(found[0][:, :-2], found[1][:, :-2])  # counts
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_chunked_draw_fills_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stofm_geo.datasets.tissue._CHUNK_VALUES", 20 * 7)
    counts = toy_tissue(100, 20).X
    counts.check_format(full_check=True)
    assert (np.diff(counts.indptr) > 0).all()


@pytest.mark.parametrize("n_cells", [1, 2, 17])
def test_few_cells(n_cells: int) -> None:
    assert toy_tissue(n_cells, 3, n_layers=2).shape == (n_cells, 3)


def test_round_trip(tissue: ad.AnnData, tmp_path) -> None:
    tissue.write_h5ad(tmp_path / "toy.h5ad")
    assert fingerprint(ad.read_h5ad(tmp_path / "toy.h5ad")) == fingerprint(tissue)


def test_neighbourhoods_tell_more_than_cells() -> None:
    adata = toy_tissue()
    counts = adata.X.toarray().astype(float)
    total = counts.sum(axis=1, keepdims=True)
    own = PCA(15, random_state=0).fit_transform(np.log1p(counts / total * np.median(total)))
    xy = adata.obsm["spatial"]
    around = own[cKDTree(xy).query(xy, k=20)[1]].mean(axis=1)

    def ari(features: np.ndarray) -> float:
        mixture = GaussianMixture(6, random_state=0, n_init=2, reg_covar=1e-4)
        return adjusted_rand_score(adata.obs["region"], mixture.fit_predict(features))

    alone, together = ari(own), ari(around)
    assert 0.1 < alone < 0.5
    assert together > 0.55
    assert together > alone + 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_cells": 0}, ValueError, "n_cells must be at least 1, found 0"),
        ({"n_genes": -3}, ValueError, "n_genes must be at least 1"),
        ({"n_layers": 1}, ValueError, "n_layers must be at least 2"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"n_cells": 2, "n_slices": 3}, ValueError, "at least one cell a slice"),
        ({"n_cells": 2e3}, TypeError, "n_cells must be an integer"),
        ({"seed": None}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        toy_tissue(**arguments)
