"""Compact counts of one slice, two to four bytes per value, read from disk in blocks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import sparse_dataset

from stofm_geo._linalg import BLOCK
from stofm_geo._sparse import check_sparse
from stofm_geo.genes.counts import checked_counts, tidy

_COLUMNS = 256  # read at once from a CSC matrix


class SmallCounts:
    """Sparse counts in as few bytes as they need, whose rows are returned as float32 CSR.

    Args:
        blocks: Consecutive blocks of rows, float32 CSR ``[b, genes]``.
        num_genes: Number of genes.

    Attributes:
        shape: ``(cells, genes)``.
    """

    def __init__(self, blocks: Any, num_genes: int) -> None:
        gene, value, count = _Growing(), _Growing(), []
        for block in blocks:
            gene.append(block.indices.astype(np.uint16 if num_genes <= 2**16 else np.uint32))
            value.append(whole(block.data))
            count.append(np.diff(block.indptr))
        self.gene, self.value = gene.finished(), value.finished()
        self.ptr = np.concatenate([[0], np.cumsum(np.concatenate(count), dtype=np.int64)])
        self.shape = len(self.ptr) - 1, num_genes
        self.order: np.ndarray | None = None

    def __getitem__(self, rows: slice | np.ndarray) -> sp.csr_matrix:
        """Return the counts of the cells ``rows``, float32 CSR."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        if self.order is not None:
            rows = self.order[rows]
        size = self.ptr[rows + 1] - self.ptr[rows]
        ptr = np.concatenate([[0], np.cumsum(size)])
        index = np.arange(ptr[-1]) + np.repeat(self.ptr[rows] - ptr[:-1], size)
        arrays = self.value[index].astype(np.float32), self.gene[index].astype(np.int32), ptr
        return sp.csr_matrix(arrays, shape=(len(rows), self.shape[1]))

    @property
    def filled(self) -> np.ndarray:
        """Return the mask of cells with counts, ``[n]`` bool."""
        return np.diff(self.ptr) > 0

    def select(self, rows: np.ndarray) -> SmallCounts:
        """Return the counts of the cells ``rows`` in the same compact form."""
        starts = range(0, len(rows), BLOCK)
        blocks = (self[rows[start : start + BLOCK]] for start in starts)
        return SmallCounts(blocks, self.shape[1])

    def sums(self) -> sp.csr_matrix:
        """Return the sum of each gene, ``[1, genes]``."""
        return sp.csr_matrix(np.bincount(self.gene, self.value, minlength=self.shape[1])[None])

    def times(self, matrix: sp.csr_matrix) -> SmallCounts:
        """Return the product with a matrix ``[genes, others]``."""
        starts = range(0, self.shape[0], BLOCK)
        blocks = (tidy(sp.csr_matrix(self[start : start + BLOCK] @ matrix)) for start in starts)
        return SmallCounts(blocks, matrix.shape[1])


class _Growing:
    """Growing array; concatenating blocks at the end would need twice the memory."""

    def __init__(self) -> None:
        self.array, self.size = np.empty(0, dtype=np.uint8), 0

    def append(self, block: np.ndarray) -> None:
        if block.itemsize > self.array.itemsize:
            self.array = self.array.astype(block.dtype)
        end = self.size + len(block)
        if end > len(self.array):
            # Memory that is not written to is not used, and large arrays are resized in place.
            self.array.resize(end * 5 // 4, refcheck=False)
        self.array[self.size : end] = block
        self.size = end

    def finished(self) -> np.ndarray:
        self.array.resize(self.size, refcheck=False)
        return self.array


def whole(values: np.ndarray) -> np.ndarray:
    """Convert float32 counts to one or two bytes if they are whole numbers that fit."""
    for dtype in (np.uint8, np.uint16):
        if not len(values) or values.max() <= np.iinfo(dtype).max:
            small = values.astype(dtype)
            if (small == values).all():
                return small
    return values


def read_counts(stored: Any, rows: np.ndarray, var: pd.DataFrame) -> SmallCounts:
    """Read the counts of some cells from a matrix that stays on disk.

    Args:
        stored: ``X`` of an ``.h5ad`` or zarr file: a group (sparse) or an array (dense).
        rows: Row indices of the cells, ascending.
        var: ``var`` of the genes.

    Raises:
        TypeError, ValueError: As :func:`~stofm_geo.genes.as_counts`.
    """
    messages = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        blocks = (
            checked_counts(AnnData(block, var=var), copy=False) for block in _blocks(stored, rows)
        )
        counts = SmallCounts(blocks, len(var))
    for warning in caught:  # the same warning comes from many blocks
        if str(warning.message) not in messages:
            messages.append(str(warning.message))
            warnings.warn(warning.message, stacklevel=2)
    if not len(counts.value):
        raise ValueError(f"all {len(rows)} x {len(var)} counts in X are zero")
    return counts


def _blocks(stored: Any, rows: np.ndarray) -> Any:
    matrix = stored if hasattr(stored, "shape") else sparse_dataset(stored)
    if getattr(matrix, "format", None) == "csc":
        matrix = _by_columns(matrix, rows)
        rows = np.arange(len(rows))
    for start in range(int(rows[0]), int(rows[-1]) + 1, BLOCK):
        block_rows = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + BLOCK)]
        if len(block_rows):
            block = matrix[int(block_rows[0]) : int(block_rows[-1]) + 1]
            check_sparse(block, "X")
            yield sp.csr_matrix(
                block if block.shape[0] == len(block_rows) else block[block_rows - block_rows[0]]
            )


def _by_columns(matrix: Any, rows: np.ndarray) -> sp.csr_matrix:
    """Read rows of a CSC matrix, in blocks of columns."""
    starts = range(0, matrix.shape[1], _COLUMNS)
    blocks = []
    for start in starts:
        block = matrix[:, start : start + _COLUMNS]
        check_sparse(block, "X")
        blocks.append(block[rows])
    return sp.hstack(blocks, format="csr")
