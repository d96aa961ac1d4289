"""Images as graphs of superpixels."""

from __future__ import annotations

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

from stofm_geo.datasets import read_mnist, small_digits, superpixel_graphs


def test_a_graph_has_intensities_at_centres() -> None:
    image = np.zeros((20, 20))
    image[:10, 10:] = 1  # at the top right
    (data,) = superpixel_graphs([image], [3], num_segments=16, num_neighbors=3)
    assert data.y.tolist() == [3]
    assert data.x.shape == (data.num_nodes, 1) and 9 <= data.num_nodes <= 20
    bright = data.pos[data.x[:, 0] > 0.9]
    dark = data.pos[data.x[:, 0] < 0.1]
    assert bright[:, 0].min() > dark[:, 0].min() and bright[:, 1].min() > dark[:, 1].min()
    # In units of the side of a superpixel: of an image, 4 x 4.
    assert 2.5 < np.ptp(data.pos.numpy(), axis=0).max() < 4
    assert torch.bincount(data.edge_index[1]).unique().tolist() == [3]


def test_edges_are_of_the_nearest() -> None:
    images, labels = small_digits()
    data = superpixel_graphs(images[:1], labels[:1])[0]
    distance = torch.cdist(data.pos.double(), data.pos.double())
    distance.fill_diagonal_(torch.inf)
    source, target = data.edge_index
    furthest = torch.zeros(data.num_nodes).double()
    furthest.scatter_reduce_(0, target, distance[target, source], "amax")
    expected = distance.topk(8, largest=False).values[:, -1]
    torch.testing.assert_close(furthest, expected)


def test_an_image_of_one_value_and_without_labels() -> None:
    (data,) = superpixel_graphs(np.zeros((1, 5, 5)), num_segments=1)
    assert data.y is None and data.num_nodes == 1 and data.num_edges == 0


def test_what_is_refused(monkeypatch) -> None:
    with pytest.raises(ValueError, match="labels must be one per image, 1; found 2"):
        superpixel_graphs(np.zeros((1, 5, 5)), [1, 2])
    with pytest.raises(ValueError, match=r"an image must be \[height, width\]; found \[5, 5, 3\]"):
        superpixel_graphs(np.zeros((1, 5, 5, 3)))
    with pytest.raises(ValueError, match="num_neighbors"):
        superpixel_graphs(np.zeros((1, 5, 5)), num_neighbors=0)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'stofm-geo\[superpixels\]'"):
        superpixel_graphs(np.zeros((1, 5, 5)))


def test_mnist_files(tmp_path) -> None:
    values = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    images, labels = tmp_path / "images.gz", tmp_path / "labels.gz"
    images.write_bytes(gzip.compress(struct.pack(">4i", 2051, 2, 28, 28) + values.tobytes()))
    labels.write_bytes(gzip.compress(struct.pack(">2i", 2049, 2) + bytes([7, 1])))
    found, classes = read_mnist(images, labels)
    np.testing.assert_allclose(found, values / 255, rtol=1e-6)
    assert classes.tolist() == [7, 1]
    with pytest.raises(ValueError, match=r"labels\.gz is not a complete gzipped IDX file with 3"):
        read_mnist(labels, images)
    images.write_bytes(gzip.compress(struct.pack(">4i", 2051, 3, 28, 28) + values.tobytes()))
    with pytest.raises(ValueError, match=r"images\.gz is not a complete"):
        read_mnist(images, labels)
    images.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"images\.gz is not a complete"):
        read_mnist(images, labels)
