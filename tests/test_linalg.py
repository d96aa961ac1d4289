"""Principal axes by blocks, against those of all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA

from stofm_geo import _linalg
from stofm_geo._linalg import principal_axes, sparse_product


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_as_of_all_rows(size: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    rows = (3 + rng.normal(size=(100, 9)) @ rng.normal(size=(9, 9))).astype(dtype)
    mean, axes, variance = principal_axes((rows[i : i + size] for i in range(0, 100, size)), 4)
    expected = PCA(4, svd_solver="full").fit(rows.astype(np.float64))
    np.testing.assert_allclose(mean, expected.mean_)
    np.testing.assert_allclose(axes, expected.components_, atol=1e-10)
    np.testing.assert_allclose(variance, expected.explained_variance_)
    assert mean.dtype == axes.dtype == variance.dtype == np.float64


def test_alike_rows_have_no_variance() -> None:
    _, axes, variance = principal_axes([np.full((20, 3), 4.0)], 2)
    np.testing.assert_array_equal(variance, 0)
    assert np.isfinite(axes).all()


@pytest.mark.parametrize("most", [1, 7, 40, 64, 100, 1000])
def test_every_nth_row(most: int) -> None:
    rows = sp.csr_matrix(np.arange(1, 101, dtype=float)[:, None])
    for size in (3, 10, 100):
        found = _linalg._every_nth((rows[i : i + size] for i in range(0, 100, size)), most)
        nth = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if len(range(0, 100, n)) <= most)
        assert found.toarray().ravel().tolist() == list(range(1, 101, nth))


def test_axes_of_many_rows_are_those_of_all(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4000, 3)) * [3, 2, 1]
    rows = sp.csr_matrix(factors @ rng.normal(size=(3, 1200)) + rng.normal(size=(4000, 1200)) / 10)
    blocks = [rows[i : i + 500] for i in range(0, 4000, 500)]
    _, exact, variance = _linalg.sparse_principal_axes(blocks, 3)
    monkeypatch.setattr(_linalg, "_MOST_ROWS", 1000)
    _, axes, fewer = _linalg.sparse_principal_axes(blocks, 3)
    assert np.abs((exact * axes).sum(axis=1)).min() > 0.95  # cosines of the axes
    np.testing.assert_allclose(fewer, variance, rtol=0.15)


@pytest.mark.parametrize("columns", [1, 8, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_products_of_sparse_rows(columns: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    rows = sp.random_array((3000, 400), density=0.2, format="csr", rng=rng)
    rows.data = np.ceil(9 * rows.data).astype(dtype)
    rows[7] = 0
    matrix = rng.normal(size=(400, columns)).astype(np.float32)
    found = sparse_product(rows, matrix)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, rows.toarray() @ matrix.astype(float), atol=1e-3)
    assert sparse_product(rows[:0], matrix).shape == (0, columns)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        np.testing.assert_array_equal(sparse_product(rows, matrix), found)
    finally:
        torch.set_num_threads(before)
