"""Principal axes of more rows than fit in memory as dense numbers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

BLOCK = 8192  # rows that are dense, or in double precision, at once
# Up to this many columns the covariance matrix is cheap; beyond, Lanczos iterations are.
_FEW_COLUMNS = 1000


def principal_axes(
    blocks: Iterable[np.ndarray], n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, principal axes and their variances, by the covariance matrix in double precision.

    One pass over the rows; memory is that of a block and of the covariance matrix. The largest
    entry of each axis is positive, so that the signs are no matter of chance.

    Args:
        blocks: All rows, a block ``[b, columns]`` at a time.
        n_components: How many axes, at most the number of columns.

    Returns:
        ``[columns]``, ``[n_components, columns]`` and ``[n_components]``, float64, from the
        largest variance on.
    """
    count, total, gram = 0, 0.0, 0.0
    for block in blocks:
        block = block.astype(np.float64)
        count += len(block)
        total = total + block.sum(axis=0)
        gram = gram + block.T @ block
    mean = total / count
    covariance = (gram - count * np.outer(mean, mean)) / (count - 1)
    variance, axes = np.linalg.eigh(covariance)
    variance, axes = variance[::-1][:n_components].clip(0), axes.T[::-1][:n_components]
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), largest])
    return mean, axes * signs[:, None], variance


def sparse_axes(
    blocks: Iterable[sp.csr_matrix], n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of sparse rows, which are never made dense all at once.

    Args:
        blocks: All rows, a block ``[b, columns]`` at a time.
        n_components: How many axes, below the number of rows and of columns.
    """
    blocks = iter(blocks)
    first = next(blocks)
    blocks = chain([first], blocks)
    if first.shape[1] <= _FEW_COLUMNS:
        return principal_axes((block.toarray() for block in blocks), n_components)
    pca = PCA(n_components, svd_solver="arpack", random_state=0).fit(sp.vstack(list(blocks)))
    return pca.mean_, pca.components_, pca.explained_variance_


def half_whitening(variance: np.ndarray) -> np.ndarray:
    """What to divide each component by, so that their root mean square is 1.

    Halfway to whitening: as they are, two components would make up most of a loss; whitened,
    noise would be as loud as tissue.
    """
    variance = variance.clip(1e-12)  # alike cells have none
    scale = np.sqrt(np.sqrt(variance))
    return scale * np.sqrt((variance / scale**2).mean())
