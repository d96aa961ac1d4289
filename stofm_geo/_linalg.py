"""Linear algebra of count matrices: principal axes, group sums, square roots of fractions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from stofm_geo.ops import sums
from stofm_geo.ops.simd import LANES
from stofm_geo.ops.threads import run_over_edges

Counts = TypeVar("Counts", np.ndarray, sp.csr_matrix)

BLOCK = 8192  # rows held dense or in double precision at once
# The covariance matrix is cheaper up to this many columns, Lanczos iterations beyond.
_FEW_COLUMNS = 1000
_MOST_ROWS = 100_000


def principal_axes(
    blocks: Iterable[np.ndarray], n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute mean, principal axes and variances from the covariance matrix, in double precision.

    The rows are read once, with a block and the covariance matrix in memory. The largest
    entry of each axis is positive, which makes the signs deterministic.

    Args:
        blocks: All rows, in blocks ``[b, columns]``.
        n_components: Number of axes, at most the number of columns.

    Returns:
        The mean ``[columns]``, the axes ``[n_components, columns]`` and their variances
        ``[n_components]``, float64, in descending order of variance.
    """
    count = 0
    total: np.ndarray | float = 0.0
    gram: np.ndarray | float = 0.0
    for block in blocks:
        block = block.astype(np.float64)
        count += len(block)
        total = total + block.sum(axis=0)
        gram = gram + block.T @ block
    mean = np.asarray(total / count)
    covariance = (gram - count * np.outer(mean, mean)) / (count - 1)
    variance, axes = np.linalg.eigh(covariance)
    variance, axes = variance[::-1][:n_components].clip(0), axes.T[::-1][:n_components]
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(len(axes)), largest])
    return mean, axes * signs[:, None], variance


def row_order(z: np.ndarray) -> np.ndarray:
    """Return the rows in ascending order, ``[n]``, the last column first: ``np.lexsort(z.T)``."""
    order = np.argsort(z[:, -1], kind="stable")
    last = z[order, -1]
    same = np.append(False, last[1:] == last[:-1])
    tied = same | np.append(same[1:], False)
    # The other columns matter, and cost, only where the last one ties.
    order[tied] = order[tied][np.lexsort(z[order[tied]].T)] if tied.any() else order[tied]
    return order


def sparse_principal_axes(
    blocks: Iterable[sp.csr_matrix], n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute :func:`principal_axes` of sparse rows, which are never all dense at once.

    If there are more than 100 000 rows and more than 1 000 columns, every second, fourth, ... row
    is used, so that time and memory are bounded.

    Args:
        blocks: All rows, in blocks ``[b, columns]``.
        n_components: Number of axes, below the number of rows and of columns.
    """
    blocks = iter(blocks)
    first = next(blocks)
    blocks = chain([first], blocks)
    if first.shape[1] <= _FEW_COLUMNS:
        return principal_axes((block.toarray() for block in blocks), n_components)
    rows = _every_nth(blocks, _MOST_ROWS)
    pca = PCA(n_components, svd_solver="arpack", random_state=0).fit(rows)
    return pca.mean_, pca.components_, pca.explained_variance_


def _every_nth(blocks: Iterable[sp.csr_matrix], most: int) -> sp.csr_matrix:
    """Return every n-th row of all blocks, n the least power of 2 that leaves at most ``most``."""
    nth, start, kept = 1, 0, []
    for block in blocks:
        kept.append(block[-start % nth :: nth])
        start += block.shape[0]
        while sum(part.shape[0] for part in kept) > most:
            nth, kept = 2 * nth, [sp.vstack(kept, format="csr")[::2]]
    return sp.vstack(kept, format="csr")


def half_whitening(variance: np.ndarray) -> np.ndarray:
    """Return divisors that halfway whiten components and give them a root mean square of 1.

    Unscaled, the first two components would dominate a loss; fully whitened, noise would weigh as
    much as signal.

    Args:
        variance: Variance of each component, ``[n_components]``.
    """
    variance = variance.clip(1e-12)  # identical cells have variance 0
    scale = np.sqrt(np.sqrt(variance))
    return scale * np.sqrt((variance / scale**2).mean())


def membership_matrix(label: np.ndarray, count: int | None = None) -> sp.csr_matrix:
    """Return the matrix ``[groups, n]`` that sums rows by group: 1 at each member of a group.

    Args:
        label: Group of each row, from 0, ``[n]``.
        count: Number of groups. ``None``: one more than the largest label.
    """
    shape = None if count is None else (count, len(label))
    return sp.csr_matrix((np.ones(len(label)), (label, np.arange(len(label)))), shape)


def row_sums(counts: sp.csr_matrix) -> np.ndarray:
    """Return the sum of each row of a sparse matrix, ``[n]``."""
    return np.asarray(counts.sum(axis=1)).ravel()


def sparse_product(rows: sp.csr_matrix, matrix: np.ndarray) -> np.ndarray:
    """Return the product of sparse rows and a dense matrix, ``[n, columns]`` float32.

    As many threads as PyTorch has are used; their number changes no bit.

    Args:
        rows: Rows ``[n, G]``.
        matrix: Matrix ``[G, columns]``.
    """
    columns = matrix.shape[1]
    width = -(-columns // LANES) * LANES
    padded = np.zeros((len(matrix), 1, width), dtype=np.float32)
    padded[:, 0, :columns] = matrix
    out = np.empty((rows.shape[0], 1, width), dtype=np.float32)
    weight = rows.data.astype(np.float32, copy=False)[:, None]
    structure = rows.indices, rows.indptr
    run_over_edges(sums.weighted_sums, rows.indptr, padded, weight, padded, *structure, 1.0, out)
    return np.ascontiguousarray(out[:, 0, :columns])


def sqrt_fractions(counts: Counts) -> Counts:
    """Return the square root of each count's fraction of its row's sum; 0 in rows without counts.

    Distances between such rows are Hellinger distances.

    Args:
        counts: Counts ``[n, G]``. Sums of sparse counts are in single precision.
    """
    if isinstance(counts, (sp.spmatrix, sp.sparray)):
        total = (counts @ np.ones(counts.shape[1])).astype(np.float32)
        fractions = counts.data / np.repeat(total, np.diff(counts.indptr))
        return sp.csr_matrix(
            (np.sqrt(fractions), counts.indices, counts.indptr), shape=counts.shape
        )
    total = counts.sum(axis=1, keepdims=True)
    return np.sqrt(counts / np.where(total > 0, total, 1))
