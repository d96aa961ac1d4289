"""Images as graphs of superpixels."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch_geometric.data import Data

from stofm_geo._validation import check_positive

_COMPACTNESS = 0.1  # of SLIC: small, so that superpixels follow the strokes
_IDX_IMAGES, _IDX_LABELS = 2051, 2049  # magic numbers of the IDX files of MNIST
_DIGIT_SIDE = 28


def superpixel_graphs(
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray | Sequence[int] | None = None,
    *,
    num_segments: int = 75,
    num_neighbors: int = 8,
) -> list[Data]:
    """Convert grey images to graphs whose nodes are SLIC superpixels (Achanta et al. 2012).

    Args:
        images: Images ``[n, height, width]`` with values in ``[0, 1]``.
        labels: Class of each image, ``[n]``; ``None``: graphs have no ``y``.
        num_segments: Number of superpixels asked of SLIC, which makes about as many (default 75).
        num_neighbors: Number of nearest superpixels that each one has an edge from (default 8).

    Returns:
        Graphs with ``x`` ``[N, 1]``, the mean intensity, ``pos`` ``[N, 2]``, the centre of mass in
        units of the side of a superpixel, with the second axis upwards, ``edge_index``, and ``y``
        ``[1]``.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: An image is not 2-D, or numbers of images and labels differ.

    Examples:
        >>> from stofm_geo.datasets import small_digits, superpixel_graphs
        >>> images, labels = small_digits()
        >>> graph = superpixel_graphs(images[:1], labels[:1])[0]
        >>> graph.y.tolist(), graph.num_edges == 8 * graph.num_nodes
        ([0], True)
    """
    check_positive("num_segments", num_segments, whole=True)
    check_positive("num_neighbors", num_neighbors, whole=True)
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"labels must be one per image, {len(images)}; found {len(labels)}")
    return [
        _graph(
            np.asarray(image, dtype=float),
            None if labels is None else int(labels[index]),
            num_segments,
            num_neighbors,
        )
        for index, image in enumerate(images)
    ]


def _graph(image: np.ndarray, label: int | None, num_segments: int, num_neighbors: int) -> Data:
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"an image must be [height, width]; found {list(image.shape)}")
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError(
            "superpixels need scikit-image; install it with pip install 'stofm-geo[superpixels]'"
        ) from error
    segment = slic(image, num_segments, _COMPACTNESS, channel_axis=None, start_label=0).ravel()
    names, segment = np.unique(segment, return_inverse=True)
    count = np.bincount(segment)
    row, column = np.indices(image.shape).reshape(2, -1)
    sums = [np.bincount(segment, values) for values in (image.ravel(), column, -row)]
    intensity, across, up = (values / count for values in sums)
    side = (image.size / num_segments) ** 0.5
    pos = np.stack([across, up], axis=1) / side
    near = min(num_neighbors, len(names) - 1)
    neighbors = cKDTree(pos).query(pos, near + 1)[1].reshape(len(pos), -1)[:, 1:]
    edge_index = np.stack([neighbors.ravel(), np.repeat(np.arange(len(pos)), near)])
    return Data(
        x=torch.from_numpy(intensity[:, None]).float(),
        pos=torch.from_numpy(pos).float(),
        edge_index=torch.from_numpy(edge_index),
        y=None if label is None else torch.tensor([label]),
    )


def read_mnist(images: str | Path, labels: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the gzipped IDX files of MNIST.

    Args:
        images: File of images, such as ``t10k-images-idx3-ubyte.gz``.
        labels: File of their labels, such as ``t10k-labels-idx1-ubyte.gz``.

    Returns:
        Images ``[n, 28, 28]`` in ``[0, 1]``, and labels ``[n]``.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is not an IDX file of images or labels, or their numbers differ.

    Examples:
        >>> import gzip, struct, tempfile
        >>> from pathlib import Path
        >>> from stofm_geo.datasets import read_mnist
        >>> with tempfile.TemporaryDirectory() as folder:  # here one black image
        ...     images, labels = Path(folder, "images.gz"), Path(folder, "labels.gz")
        ...     header = struct.pack(">4i", 2051, 1, 28, 28)
        ...     _ = images.write_bytes(gzip.compress(header + bytes(28 * 28)))
        ...     _ = labels.write_bytes(gzip.compress(struct.pack(">2i", 2049, 1) + bytes([7])))
        ...     pixels, classes = read_mnist(images, labels)
        >>> pixels.shape, classes.tolist()
        ((1, 28, 28), [7])
    """
    values = _idx(Path(images), _IDX_IMAGES, 3).astype(np.float32) / 255
    classes = _idx(Path(labels), _IDX_LABELS, 1).astype(np.int64)
    if len(values) != len(classes):
        raise ValueError(f"{images} has {len(values)} images, {labels} has {len(classes)} labels")
    return values, classes


def _idx(path: Path, magic: int, dimensions: int) -> np.ndarray:
    header = 4 * (1 + dimensions)
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error):
        content = b""
    found, *shape = np.frombuffer(content[:header], ">i4") if len(content) > header else (0,)
    if found != magic or len(content) != header + int(np.prod(shape)):
        raise ValueError(f"{path} is not a complete gzipped IDX file with {dimensions} dimensions")
    return np.frombuffer(content[header:], np.uint8).reshape(shape)


def small_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1 797 digits of scikit-learn, 8 x 8 pixels, enlarged to 28 x 28.

    They need no file, and stand in for MNIST in examples and tests.

    Returns:
        Images ``[1797, 28, 28]`` in ``[0, 1]``, and labels ``[1797]``.

    Examples:
        >>> from stofm_geo.datasets import small_digits
        >>> images, labels = small_digits()
        >>> images.shape, labels[:5].tolist()
        ((1797, 28, 28), [0, 1, 2, 3, 4])
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    size = (_DIGIT_SIDE, _DIGIT_SIDE)
    large = torch.nn.functional.interpolate(small, size, mode="bilinear")
    return large[:, 0].numpy(), labels.astype(np.int64)
