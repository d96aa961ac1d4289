"""Fixtures that tests of several folders share; functions are in ``helpers.py``."""

from __future__ import annotations

import os

# Of small sums: two threads wait for each other, and on a busy machine for minutes. It is read as
# libraries are imported, and by the processes that tests start.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slices; tests that use it carry ``@pytest.mark.shared``."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real slices (../shared/data) are not here")
    return folder


@pytest.fixture(scope="session")
def places() -> dict[str, np.ndarray]:
    """Positions to try a transform on, ``[n, 2]``: lattices with ties, and without."""
    rng = np.random.default_rng(0)
    square = np.stack(np.meshgrid(np.arange(14.0), np.arange(9.0)), -1).reshape(-1, 2)
    hexagonal = square.copy()
    hexagonal[:, 0] += 0.5 * (square[:, 1] % 2)
    hexagonal[:, 1] *= np.sqrt(3) / 2
    # A straight outline, uneven inside: slivers along the outline come and go with rounding.
    side = np.arange(0, 13, 1.0)
    box = np.concatenate(
        [np.stack(p, 1) for p in [(side, 0 * side), (side, 0 * side + 12), (0 * side, side)]]
    )
    framed = np.concatenate([np.unique(box, axis=0), rng.uniform(0.5, 11.5, (150, 2))])
    random = rng.uniform(0, 15, (220, 2))
    return {
        "square": square,
        "hexagonal": hexagonal,
        "anisotropic": square * [1, 1.3],
        "holed": hexagonal[np.linalg.norm(hexagonal - [6.5, 4], axis=1) > 2],
        "framed": framed,
        "random": random,
        "doubled": np.concatenate([random, random[:40], random[:10]]),
    }


@pytest.fixture
def thread_count() -> Iterator[Callable[[int], None]]:
    """Sets PyTorch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
