"""Models of graphs in the plane: equivariance, learning, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv

from stofm_geo.benchmark import register_model
from stofm_geo.benchmark.geometry import training
from stofm_geo.benchmark.geometry.models import MODELS, kinds_of, of_layer
from stofm_geo.benchmark.geometry.networks import GraphNetwork, Sizes
from stofm_geo.benchmark.geometry.problems import GraphProblem
from stofm_geo.benchmark.layers import LAYERS, IgnorePositions
from stofm_geo.datasets import charged_particles, rotate_graphs, small_digits, superpixel_graphs

EQUIVARIANT = [name for name in MODELS if "coordinates" not in name]
WITH_VECTORS = [name for name in EQUIVARIANT if "axes" in kinds_of(MODELS[name])]
E2 = [name for name in EQUIVARIANT if name != "SE2TransformerConv (vectors)"]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def superpixels() -> list[Data]:
    images, labels = small_digits()
    return in_double(superpixel_graphs(images[:8], labels[:8]))


def in_double(graphs: list[Data]) -> list[Data]:
    return [data.apply(lambda t: t.double() if t.is_floating_point() else t) for data in graphs]


def network(name: str, graphs: list[Data], outputs: int) -> GraphNetwork:
    torch.manual_seed(0)
    model, first = MODELS[name], graphs[0]
    vectors = first.vectors.size(1) if "vectors" in first else 0
    sizes = Sizes(first.x.size(1), vectors, outputs)
    return GraphNetwork(model.layer, sizes, 16, model.coordinates, model.orders, model.zeros)


def out_of(net: GraphNetwork, graphs: list[Data]) -> Tensor:
    with torch.no_grad():
        return net.eval()(Batch.from_data_list(graphs))


def mirrored(graphs: list[Data]) -> list[Data]:
    graphs = [data.clone() for data in graphs]
    for data in graphs:
        for key in ("pos", "vectors", "y"):
            if key in data and data[key].dim() > 1:
                data[key] = data[key] * torch.tensor([-1.0, 1.0])
    return graphs


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_classes_do_not_change_by_rotation(name: str) -> None:
    graphs = superpixels()
    net = network(name, graphs, 10)
    torch.testing.assert_close(
        out_of(net, rotate_graphs(graphs, seed=1)), out_of(net, graphs), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("velocities", [True, False])
@pytest.mark.parametrize("name", WITH_VECTORS)
def test_vectors_rotate_with_the_particles(name: str, velocities: bool) -> None:
    graphs = in_double(charged_particles(6))
    for data in graphs if not velocities else ():  # as cells of a tissue
        del data.vectors
    net = network(name, graphs, 0)
    before = out_of(net, graphs)
    answers = [d.clone() for d in graphs]
    for data, rows in zip(answers, before.split([d.num_nodes for d in graphs]), strict=True):
        data.y = rows
    expected = torch.cat([data.y for data in rotate_graphs(answers, seed=2)])
    after = out_of(net, rotate_graphs(graphs, seed=2))
    torch.testing.assert_close(after, expected, atol=1e-10, rtol=0)
    assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_only_our_vectors_tell_mirror_images_apart(name: str) -> None:
    graphs = superpixels()
    net = network(name, graphs, 10)
    difference = (out_of(net, mirrored(graphs)) - out_of(net, graphs)).abs().max()
    assert difference < 1e-10 if name in E2 else difference > 1e-4


def test_coordinates_are_no_invariants() -> None:
    graphs = superpixels()
    net = network("GATv2 (coordinates)", graphs, 10)
    rotated = out_of(net, rotate_graphs(graphs, seed=1))
    assert (rotated - out_of(net, graphs)).abs().max() > 1e-3
    for data in graphs:
        data.pos = data.pos + 100
    torch.testing.assert_close(
        out_of(net, graphs), out_of(net, superpixels()), atol=1e-9, rtol=0
    )  # but they are of the graph's centre


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["SE2TransformerConv (vectors)", "GATv2 (coordinates + rotations)"]
)
def test_a_model_learns_and_a_seed_gives_the_same(name: str, monkeypatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(training, "STEPS", 24)
    monkeypatch.setattr(training, "_BATCH", 16)
    monkeypatch.setattr(training, "CHECKS", 3)
    graphs = charged_particles(160)
    test = [data.clone() for data in graphs[130:]]
    truth = np.concatenate([data.y for data in test])
    for data in test:
        del data.y
    problem = GraphProblem("displacements", graphs[:100], graphs[100:130], [test])
    (found,), record = MODELS[name](problem, 0)
    assert found.shape == truth.shape
    assert ((found - truth) ** 2).mean() < 0.9 * (truth**2).mean()
    assert 48_000 < record["parameters"] < 72_000
    (again,), _ = MODELS[name](problem, 0)
    assert found.tobytes() == again.tobytes()


def test_a_layer_must_return_its_shape_and_may_have_8_heads(monkeypatch) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(training, "STEPS", 20)
    images, labels = small_digits()
    graphs = superpixel_graphs(images[:30], labels[:30])
    test = [Data(x=data.x, pos=data.pos, edge_index=data.edge_index) for data in graphs[25:]]
    names = [str(digit) for digit in range(10)]
    problem = GraphProblem("graph_classes", graphs[:20], graphs[20:25], [test], names)
    (found,), _ = of_layer(LAYERS["GATv2"])(problem, 0)
    assert found.shape == (5,)
    narrow = of_layer(lambda width: IgnorePositions(GCNConv(width, 1)))
    with pytest.raises(ValueError, match=r"must return a tensor .*; found \[\d+, 1\]"):
        narrow(problem, 0)
    with pytest.raises(ValueError, match="cannot predict displacements or axes"):
        register_model("too much", layer=LAYERS["GCN"], kinds=["axes"])


def test_any_registered_layer_predicts_classes_but_no_vectors() -> None:
    torch.set_default_dtype(torch.float32)
    model = of_layer(LAYERS["GCN"])
    assert kinds_of(model) == ("graph_classes",)
    net = GraphNetwork(model.layer, Sizes(1, 0, 0), 16)
    graphs = superpixel_graphs(small_digits()[0][:2])
    with pytest.raises(TypeError, match="the layer has no vectors; use coordinates"):
        net(Batch.from_data_list(graphs))
