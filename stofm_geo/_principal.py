"""Principal axes of more rows than fit in memory as dense numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BLOCK = 8192  # rows that are dense, or in double precision, at once


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
