"""Checks of sparse matrices from files, whose indices SciPy does not check."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_sparse(matrix: Any, name: str) -> None:
    """Check that the indices of a CSR or CSC matrix are within its shape; other formats pass.

    Raises:
        ValueError: Indices are negative or too large, or pointers decrease or mismatch the data.
    """
    if getattr(matrix, "format", None) not in ("csr", "csc"):
        return
    minor = matrix.shape[1 if matrix.format == "csr" else 0]
    ptr, indices = matrix.indptr, matrix.indices
    size = len(ptr) and int(ptr[-1])
    problem = None
    if len(ptr) != matrix.shape[0 if matrix.format == "csr" else 1] + 1 or ptr[0] != 0:
        problem = "indptr does not match its shape"
    elif (np.diff(ptr) < 0).any():
        problem = "indptr decreases"
    elif size > len(indices) or size > len(matrix.data):
        problem = (
            f"indptr ends at {size}, and there are {min(len(indices), len(matrix.data))} values"
        )
    elif size:
        least, most = int(indices[:size].min()), int(indices[:size].max())
        if least < 0 or most >= minor:
            problem = f"indices are from {least} to {most}, but must be below {minor}"
    if problem:
        raise ValueError(
            f"{name} is a damaged sparse matrix ({problem}); write it again from its source"
        )
