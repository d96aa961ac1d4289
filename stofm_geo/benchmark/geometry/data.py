"""Data sets of graphs in the plane: training, validation and test graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch_geometric.data import Data

from stofm_geo.datasets import charged_particles, read_mnist, small_digits, superpixel_graphs

Graphs = dict[str, list[Data]]
MNIST_FILES = {
    "mnist_t10k/t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "mnist_t10k/t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
SYSTEMS = (100, 1_000, 10_000)  # for training
_DRIFT = 0.5  # of all particles along the first axis


def mnist(folder: Path | None) -> Graphs:
    """Return superpixels of 10 000 digits of MNIST: 8 000, 1 000 and 1 000 of them."""
    assert folder is not None
    images, labels = read_mnist(*(folder / name for name in MNIST_FILES))
    return _parts(images, labels, (8_000, 1_000))


def digits(folder: Path | None) -> Graphs:
    """Return superpixels of the digits of scikit-learn: 1 200, 297 and 300 of them."""
    return _parts(*small_digits(), (1_200, 297))


def _parts(images: np.ndarray, labels: np.ndarray, sizes: tuple[int, int]) -> Graphs:
    # In a random order, since consecutive digits are of the same writer.
    order = np.random.default_rng(0).permutation(len(labels))
    graphs = superpixel_graphs(images[order], labels[order])
    first, second = sizes[0], sum(sizes)
    return {"train": graphs[:first], "validation": graphs[first:second], "test": graphs[second:]}


def particles(folder: Path | None) -> Graphs:
    """Return 10 000 systems of particles for training, 500 for validation, 1 000 for tests."""
    sizes = {"train": max(SYSTEMS), "validation": 500, "test": 1_000}
    return {
        name: charged_particles(size, drift=_DRIFT, seed=seed)
        for seed, (name, size) in enumerate(sizes.items())
    }
