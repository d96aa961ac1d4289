from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import ObsmFeatures, PCAFeatures, register_encoder
from stofm_geo.genes.encoders import ENCODERS, from_state
from tests.helpers import make_slice


def slow_features(adata: AnnData, n_components: int) -> np.ndarray:
    """The documented features by a singular value decomposition of the dense matrix."""
    counts = adata.X.toarray().astype(float)
    roots = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
    u, s, _ = np.linalg.svd(roots - roots.mean(axis=0), full_matrices=False)
    scores = (u * s)[:, :n_components]
    halfway = scores / np.sqrt(scores.std(axis=0, ddof=1))
    return halfway / np.sqrt(halfway.var(axis=0, ddof=1).mean())


@pytest.mark.parametrize(("n", "genes", "asked"), [(80, 30, 6), (60, 1100, 5), (12, 30, 50)])
def test_features_are_the_principal_components(n: int, genes: int, asked: int) -> None:
    adata = make_slice(n, genes)
    features = PCAFeatures(asked).fit([adata])
    x = features.transform(adata)
    found = min(asked, n - 1, genes - 1)
    assert x.shape == (n, found) == (n, features.out_channels)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    expected = slow_features(adata, found)
    sign = np.sign((x * expected).sum(axis=0))
    np.testing.assert_allclose(x * sign, expected, atol=2e-3)
    assert np.sqrt(np.square(x).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("genes", [30, 1100])
def test_same_slices_same_bytes(genes: int) -> None:
    adata = make_slice(50, genes)
    first, second = (PCAFeatures(8).fit([adata]).transform(adata) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_genes_that_all_slices_share() -> None:
    one, other = make_slice(40, 12), make_slice(50, 12, seed=1)
    other.var_names = [f"gene{i}" for i in reversed(range(3, 15))]
    features = PCAFeatures(4).fit([one, other])
    assert features.genes.tolist() == [f"gene{i}" for i in range(3, 12)]
    whole = np.concatenate(
        [one[:, features.genes].X.toarray(), other[:, features.genes].X.toarray()]
    )
    together = AnnData(sp.csr_matrix(whole))
    expected = slow_features(together, 4)
    x = np.concatenate([features.transform(one), features.transform(other)])
    np.testing.assert_allclose(x * np.sign((x * expected).sum(axis=0)), expected, atol=2e-3)


def test_order_of_genes_does_not_matter() -> None:
    adata = make_slice(40, 12)
    features = PCAFeatures(4).fit([adata])
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(
        features.transform(adata[:, order].copy()), features.transform(adata), atol=1e-5
    )


@pytest.mark.parametrize("storage", ["csr", "csc", "dense", "view"])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_storage_does_not_matter(storage: str, dtype: type) -> None:
    adata = make_slice(40, 12)
    counts = adata.X.astype(dtype)
    other = adata.copy()
    other.X = {"csr": counts, "csc": counts.tocsc(), "dense": counts.toarray(), "view": counts}[
        storage
    ]
    if storage == "view":
        other = other[np.arange(40)]
    x = [PCAFeatures(5).fit([one]).transform(one) for one in (adata, other)]
    assert x[0].tobytes() == x[1].tobytes()


def test_missing_genes_count_as_average() -> None:
    adata = make_slice(60, 12)
    features = PCAFeatures(4).fit([adata])
    few = adata[:, 2:].copy()
    with pytest.warns(UserWarning, match="2 of the model's 12 genes are missing and count as av"):
        x = features.transform(few)
    counts = few.X.toarray()
    roots = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
    # Fractions of the other genes are those of all genes, times what the mean has of the others.
    share = np.square(features.mean[2:]).sum() / np.square(features.mean).sum()
    centred = np.concatenate([np.zeros((60, 2)), share**0.5 * roots - features.mean[2:]], axis=1)
    np.testing.assert_allclose(x, centred @ features.axes.T / features.scale, atol=1e-4)


def test_genes_the_model_does_not_know_are_ignored() -> None:
    adata = make_slice(60, 12)
    features = PCAFeatures(4).fit([adata[:, :9].copy()])
    np.testing.assert_array_equal(
        features.transform(adata), features.transform(adata[:, :9].copy())
    )


def test_another_panel_is_an_error() -> None:
    adata = make_slice(30, 12)
    features = PCAFeatures().fit([adata])
    other = adata.copy()
    other.var_names = [f"ENSG{i}" if i else "gene0" for i in range(12)]
    message = r"knows 12 genes \(gene0, gene1, gene2, \.\.\.\).*gene0, ENSG1, ENSG2.* has 1;"
    with pytest.raises(ValueError, match=message):
        features.transform(other)
    with pytest.raises(ValueError, match="2 slices share 1 gene names; at least 5 are needed"):
        PCAFeatures().fit([adata, other])


def test_few_shared_genes_are_told_of() -> None:
    adata, other = make_slice(40, 30), make_slice(40, 30)
    other.var_names = [name if i < 7 else name.upper() for i, name in enumerate(other.var_names)]
    with pytest.warns(UserWarning, match=r"slices share 7 gene names, of 30 or more .* one kind"):
        assert len(PCAFeatures(4).fit([adata, other]).genes) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PCAFeatures(4).fit([adata, adata[:, :7].copy()])  # all genes of the smallest panel


def test_cells_without_counts_are_average() -> None:
    adata = make_slice(30, 12)
    counts = adata.X.tolil()
    counts[[3, 7]] = 0
    adata.X = counts.tocsr()
    features = PCAFeatures(4).fit([adata])
    with pytest.warns(UserWarning, match="2 of 30 cells have no counts"):
        x = features.transform(adata)
    assert (x[[3, 7]] == 0).all() and np.isfinite(x).all()
    assert (np.abs(np.delete(x, [3, 7], axis=0)).sum(axis=1) > 0).all()


@pytest.mark.parametrize("genes", [12, 1100])
@pytest.mark.parametrize("n", [2, 3])
def test_few_cells_give_finite_features(n: int, genes: int) -> None:
    adata = make_slice(n, genes, seed=3)
    x = PCAFeatures().fit([adata]).transform(adata)
    assert x.shape[0] == n and np.isfinite(x).all()


@pytest.mark.parametrize("genes", [12, 1100])
def test_alike_cells_give_finite_features(genes: int) -> None:
    adata = AnnData(np.full((20, genes), 4, dtype=np.float32))
    assert np.isfinite(PCAFeatures().fit([adata]).transform(adata)).all()


def test_counts_stay_as_they_were() -> None:
    adata = make_slice(30, 12)[:, ::-1].copy()
    before = adata.X.toarray()
    PCAFeatures().fit([adata]).transform(adata)
    np.testing.assert_array_equal(adata.X.toarray(), before)


def test_state_of_an_unknown_kind() -> None:
    known = ", ".join(map(repr, [*ENCODERS, "obsm"]))
    with pytest.raises(ValueError, match=f"unknown kind of features 'bert'; known: {known}"):
        from_state({"kind": "bert"}, {})


def test_state_of_other_genes() -> None:
    settings, arrays = PCAFeatures(5).fit([make_slice(40, 12)]).state()
    settings["genes"].pop()
    with pytest.raises(ValueError, match="there are 11 genes, and axes of 12"):
        from_state(settings, arrays)


@pytest.mark.parametrize("storage", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
def test_vectors_are_divided_by_their_rms(storage) -> None:
    adata = make_slice(40)
    vectors = 30 * np.random.default_rng(0).normal(size=(40, 6))
    adata.obsm["Z"] = storage(vectors)
    x = ObsmFeatures("Z").fit([adata]).transform(adata)
    assert x.dtype == np.float32 and x.shape == (40, 6)
    np.testing.assert_allclose(x, vectors / np.sqrt(np.square(vectors).mean()), rtol=1e-5)


def test_unfit_vectors() -> None:
    adata, other = make_slice(40), make_slice(30)
    adata.obsm["Z"], other.obsm["Z"] = np.ones((40, 6)), np.ones((30, 5))
    with pytest.raises(ValueError, match=r"obsm\['Z'\] has \[5, 6\] columns in different slices"):
        ObsmFeatures("Z").fit([adata, other])
    features = ObsmFeatures("Z").fit([adata])
    with pytest.raises(ValueError, match=r"obsm\['Z'\] has 5 columns; .* trained for 6"):
        features.transform(other)
    with pytest.raises(KeyError, match=r"obsm has no 'Q'; it has \['Z', 'spatial'\]"):
        ObsmFeatures("Q").fit([adata])
    adata.obsm["Z"][4, 2] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['Z'\] is NaN or infinite for 1 of 40 .*\(cell4\)"):
        features.transform(adata)
    adata.obsm["Z"] = np.full((40, 2), "word")
    with pytest.raises(TypeError, match=r"obsm\['Z'\] must hold numbers; found"):
        ObsmFeatures("Z").fit([adata])


def test_all_zero_vectors_stay_zero() -> None:
    adata = make_slice(10)
    adata.obsm["Z"] = np.zeros((10, 3))
    assert (ObsmFeatures("Z").fit([adata]).transform(adata) == 0).all()


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-2, ValueError), (3.5, TypeError)])
def test_bad_number_of_components(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"n_components must be .*; found {value!r}"):
        PCAFeatures(value)  # type: ignore[arg-type]


class Totals:
    """An encoder of a user: the logarithm of a cell's counts, and its deviation."""

    key = module = genes = None
    out_channels = 2

    def __init__(self, mean: float) -> None:
        self.mean = mean

    @classmethod
    def from_slices(cls, slices, *, n_components, out_channels):
        return cls(float(np.concatenate([cls._log(adata) for adata in slices]).mean()))

    @classmethod
    def from_state(cls, settings, arrays):
        return cls(settings["mean"])

    @staticmethod
    def _log(adata) -> np.ndarray:
        return np.log1p(np.asarray(adata.X.sum(axis=1)).ravel())

    def transform(self, adata) -> np.ndarray:
        log = self._log(adata)
        return np.stack([log, log - self.mean], axis=1).astype(np.float32)

    def state(self):
        return {"kind": "totals", "mean": self.mean}, {}


def test_a_users_encoder_is_fitted_saved_and_loaded(tmp_path, monkeypatch) -> None:
    known = ", ".join(map(repr, ENCODERS))
    with pytest.raises(ValueError, match=f"one of {known}; found 'totals'; register your own"):
        SToFM(encoder="totals")
    with pytest.raises(TypeError, match=f"encoder must be a name, one of {known}; found .*Totals"):
        SToFM(encoder=Totals)
    with pytest.raises(TypeError, match="lacks from_slices, transform, state, from_state"):
        register_encoder("totals", dict)
    with pytest.raises(ValueError, match="taken by vectors in obsm"):
        register_encoder("obsm", Totals)
    monkeypatch.setattr(ENCODERS, "_entries", dict(ENCODERS))
    register_encoder("totals", Totals)
    adata = toy_tissue(200, 30, seed=0)
    model = SToFM(encoder="totals", hidden_channels=16, out_channels=8, heads=2, num_layers=1)
    model.fit(adata, max_steps=2, progress=False).embed(adata)
    expected = adata.obsm["X_stofm"].copy()
    model.save_pretrained(tmp_path / "model")
    SToFM.from_pretrained(tmp_path / "model").embed(adata)
    assert np.array_equal(adata.obsm["X_stofm"], expected)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"encoder must be one of {known}; found 'totals'"):
        SToFM.from_pretrained(tmp_path / "model")


def test_an_encoder_whose_state_names_another_is_refused(monkeypatch) -> None:
    class Doubled(PCAFeatures):
        def transform(self, adata: AnnData) -> np.ndarray:
            return 2 * super().transform(adata)

    monkeypatch.setattr(ENCODERS, "_entries", dict(ENCODERS))
    register_encoder("doubled", Doubled)
    with pytest.raises(ValueError, match="the encoder 'doubled' has the kind 'pca' in its state"):
        SToFM(encoder="doubled").fit(toy_tissue(100, 30, seed=0), max_steps=2, progress=False)
