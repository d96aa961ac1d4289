"""Checks of sparse matrices from files, whose indices SciPy does not check."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_sparse(matrix: Any, name: str) -> None:
    """Check that the indices of a CSR or CSC matrix are within its shape; other formats pass.

    Raises:
        ValueError: Indices are negative or too large, or pointers decrease or do not fit the data.
    """
    if getattr(matrix, "format", None) not in ("csr", "csc"):
        return
    minor = matrix.shape[1 if matrix.format == "csr" else 0]
    ptr, indices = matrix.indptr, matrix.indices
    size = len(ptr) and int(ptr[-1])
    wrong = None
    if len(ptr) != matrix.shape[0 if matrix.format == "csr" else 1] + 1 or ptr[0] != 0:
        wrong = "indptr does not fit its shape"
    elif (np.diff(ptr) < 0).any():
        wrong = "indptr falls"
    elif size > len(indices) or size > len(matrix.data):
        wrong = f"indptr ends at {size}, and there are {min(len(indices), len(matrix.data))} values"
    elif size:
        least, most = int(indices[:size].min()), int(indices[:size].max())
        if least < 0 or most >= minor:
            wrong = f"indices are {least} to {most}, of {minor}"
    if wrong:
        raise ValueError(
            f"{name} is a damaged sparse matrix ({wrong}); write it again from its source"
        )
