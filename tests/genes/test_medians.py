from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from stofm_geo.genes import as_counts, counts, ensembl_ids
from stofm_geo.genes.medians import corpus_medians


def slice_of(matrix: np.ndarray, first: int = 0) -> AnnData:
    adata = AnnData(sp.csr_matrix(matrix.astype(np.float32)))
    adata.var_names = [f"ENSG{first + i:03}" for i in range(matrix.shape[1])]
    return adata


def exact(slices: list[AnnData]) -> dict[str, float]:
    values: dict[str, list[np.ndarray]] = {}
    for adata in slices:
        matrix = as_counts(adata).astype(np.float64)
        total = np.asarray(matrix.sum(axis=1)).ravel()
        columns = matrix.multiply(1e4 / np.where(total > 0, total, 1)[:, None]).tocsc()
        for i, gene in enumerate(ensembl_ids(adata)):
            values.setdefault(gene, []).append(
                columns.data[columns.indptr[i] : columns.indptr[i + 1]]
            )
    together = {gene: np.concatenate(parts) for gene, parts in values.items()}
    return {gene: np.median(v) for gene, v in sorted(together.items()) if len(v)}


def assert_near(found: dict[str, float], expected: dict[str, float]) -> None:
    assert list(found) == list(expected)
    ratio = np.array(list(found.values())) / np.array(list(expected.values()))
    assert np.abs(ratio - 1).max() < 0.01


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_within_a_percent_of_the_exact_medians(spread: float) -> None:
    rng = np.random.default_rng(0)
    made = []
    for first in (0, 20, 5):
        mean = rng.lognormal(0, spread, 40)
        matrix = rng.poisson(rng.gamma(0.5, 2, (90, 1)) * mean)
        matrix[3] = 0
        matrix[:, 7] = 0
        made.append(slice_of(matrix, first))
    found = corpus_medians(iter(made))
    assert_near(found, exact(made))


def test_a_single_value_and_two() -> None:
    found = corpus_medians([slice_of(np.array([[1, 0, 0], [1, 3, 0], [0, 0, 0]]))])
    assert_near(found, {"ENSG000": (10_000 + 2500) / 2, "ENSG001": 7500.0})


def test_a_backed_corpus_is_as_one_in_memory(tmp_path, monkeypatch) -> None:
    adata = slice_of(np.random.default_rng(0).poisson(0.5, (50, 30)))
    adata.write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    monkeypatch.setattr(counts.count_blocks, "__defaults__", (8,))
    assert corpus_medians([backed]) == corpus_medians([adata])
    backed.file.close()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="no counts: the corpus has no slices"):
        corpus_medians([])
    good, bad = slice_of(np.ones((3, 2))), slice_of(-np.ones((3, 2)))
    with pytest.raises(ValueError, match="slice 1: X holds negative values"):
        corpus_medians([good, bad])


@pytest.mark.shared
def test_real_slices(shared_data) -> None:
    names = ("xenium_breast_voltron", "dlpfc_151674", "cosmx_lung_profast")
    made = [read_h5ad(shared_data / f"{name}.h5ad") for name in names]
    assert_near(corpus_medians(made), exact(made))
