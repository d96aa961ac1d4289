"""Principal axes by blocks, against those of all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from stofm_geo._linalg import principal_axes


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
