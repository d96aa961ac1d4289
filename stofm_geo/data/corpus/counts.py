"""Counts of one slice in two to four bytes a value, read from disk a block at a time."""

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

_COLUMNS = 256  # read at once of a matrix that is stored by columns


class SmallCounts:
    """Counts as whole numbers of one or two bytes where they are such, and rows as asked for.

    Args:
        blocks: Float32 CSR ``[b, genes]``, one after another.
        num_genes: Columns.

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
        """Return the counts of some cells, float32 CSR."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        if self.order is not None:
            rows = self.order[rows]
        size = self.ptr[rows + 1] - self.ptr[rows]
        ptr = np.concatenate([[0], np.cumsum(size)])
        at = np.arange(ptr[-1]) + np.repeat(self.ptr[rows] - ptr[:-1], size)
        of = self.value[at].astype(np.float32), self.gene[at].astype(np.int32), ptr
        return sp.csr_matrix(of, shape=(len(rows), self.shape[1]))

    @property
    def filled(self) -> np.ndarray:
        """Which cells have counts, ``[n]`` bool."""
        return np.diff(self.ptr) > 0

    def select(self, rows: np.ndarray) -> SmallCounts:
        """Return the counts of some cells in the same compact form."""
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
    """Numbers that are appended to; blocks joined at the end would be there twice."""

    def __init__(self) -> None:
        self.array, self.size = np.empty(0, dtype=np.uint8), 0

    def append(self, block: np.ndarray) -> None:
        if block.itemsize > self.array.itemsize:
            self.array = self.array.astype(block.dtype)
        end = self.size + len(block)
        if end > len(self.array):
            # Room that is not written to takes no memory, and large arrays grow where they are.
            self.array.resize(end * 5 // 4, refcheck=False)
        self.array[self.size : end] = block
        self.size = end

    def finished(self) -> np.ndarray:
        self.array.resize(self.size, refcheck=False)
        return self.array


def whole(values: np.ndarray) -> np.ndarray:
    """Convert float32 counts to one or two bytes, where they are whole numbers that fit."""
    for kind in (np.uint8, np.uint16):
        if not len(values) or values.max() <= np.iinfo(kind).max:
            small = values.astype(kind)
            if (small == values).all():
                return small
    return values


def read_counts(stored: Any, rows: np.ndarray, var: pd.DataFrame) -> SmallCounts:
    """Read the counts of some cells from a matrix that stays on disk.

    Args:
        stored: ``X`` of an ``.h5ad`` or zarr: a group (sparse) or an array (dense).
        rows: Numbers of the cells, ascending.
        var: Of the genes.

    Raises:
        TypeError, ValueError: As :func:`~stofm_geo.genes.as_counts`.
    """
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        blocks = (
            checked_counts(AnnData(block, var=var), copy=False) for block in _blocks(stored, rows)
        )
        counts = SmallCounts(blocks, len(var))
    for warning in caught:  # of many blocks, but each once
        if str(warning.message) not in found:
            found.append(str(warning.message))
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
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + BLOCK)]
        if len(here):
            block = matrix[int(here[0]) : int(here[-1]) + 1]
            check_sparse(block, "X")
            yield sp.csr_matrix(block if block.shape[0] == len(here) else block[here - here[0]])


def _by_columns(matrix: Any, rows: np.ndarray) -> sp.csr_matrix:
    """Read rows of a matrix that is stored by columns."""
    starts = range(0, matrix.shape[1], _COLUMNS)
    parts = []
    for start in starts:
        part = matrix[:, start : start + _COLUMNS]
        check_sparse(part, "X")
        parts.append(part[rows])
    return sp.hstack(parts, format="csr")
