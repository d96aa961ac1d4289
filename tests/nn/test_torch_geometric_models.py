"""The situations of PyG's tests of explainers, heterogeneous and other models, with the layer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer, PGExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_hetero_masks
from torch_geometric.nn import (
    DeepGCNLayer,
    GATConv,
    GATv2Conv,
    GPSConv,
    HeteroConv,
    Sequential,
    global_add_pool,
    to_captum_model,
    to_hetero,
)
from torch_geometric.nn.models.basic_gnn import BasicGNN
from torch_geometric.utils import to_torch_csc_tensor

from stofm_geo.nn import SE2TransformerConv

OURS = partial(SE2TransformerConv, radial=None)
PATH = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4], [1, 0, 2, 1, 3, 2, 4, 3]])
CITES, WRITTEN, WRITES = (
    ("paper", "cites", "paper"),
    ("paper", "written_by", "author"),
    ("author", "writes", "paper"),
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def hetero() -> tuple[dict, dict]:
    """Features of 10 papers and 7 authors, and 20 edges of each type."""
    sizes = {"paper": 10, "author": 7}
    edges = {
        kind: torch.stack([torch.randint(sizes[kind[side]], (20,)) for side in (0, 2)])
        for kind in (CITES, WRITTEN, WRITES)
    }
    return {"paper": torch.randn(10, 16), "author": torch.randn(7, 12)}, edges


class Net(nn.Module):
    """Two layers."""

    def __init__(self, channels: int | tuple = 8, out_channels: int = 7, first=OURS) -> None:
        super().__init__()
        lazy = channels if isinstance(channels, tuple) else 16
        self.first = first(channels, 8, heads=2)
        self.second = OURS(lazy, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


class Graphs(Net):
    """The same, of whole graphs."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        return global_add_pool(super().forward(x, edge_index), batch)


def explainer_of(model: nn.Module, algorithm: object, kind: str = "model", **options) -> Explainer:
    config = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}
    config |= {key: options.pop(key) for key in tuple(options) if key in config}
    options = {"edge_mask_type": "object", **options}
    return Explainer(model, algorithm, explanation_type=kind, model_config=config, **options)


def check_mask(mask: Tensor, shape: tuple) -> None:
    assert mask.shape == shape and mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("index", [None, 2, torch.arange(3)])
@pytest.mark.parametrize("kind", ["model", "phenomenon"])
@pytest.mark.parametrize("task_level", ["node", "graph"])
@pytest.mark.parametrize("node_mask", ["object", "common_attributes", "attributes"])
def test_gnn_explainer(index, kind: str, task_level: str, node_mask: str) -> None:
    model = (Graphs if task_level == "graph" else Net)()
    x = torch.randn(5, 8)
    more = {"batch": torch.tensor([0, 0, 1, 1, 2])} if task_level == "graph" else {}
    target = model(x, PATH, **more).argmax(-1) if kind == "phenomenon" else None
    explainer = explainer_of(
        model, GNNExplainer(epochs=2), kind, task_level=task_level, node_mask_type=node_mask
    )
    explanation = explainer(x, PATH, target=target, index=index, **more)
    shape = {"object": (5, 1), "common_attributes": (1, 8), "attributes": (5, 8)}
    check_mask(explanation.node_mask, shape[node_mask])
    check_mask(explanation.edge_mask, (8,))
    assert not model.first.explain and model.first._edge_mask is None


@pytest.mark.parametrize("index", [None, 2, torch.arange(3)])
@pytest.mark.parametrize("other", [GATConv, GATv2Conv])
def test_attention_explainer_beside_layers_of_torch_geometric(index, other: type) -> None:
    model = Net(first=partial(other, add_self_loops=False))
    x = torch.randn(5, 8)
    explanation = explainer_of(model, AttentionExplainer(reduce="mean"))(x, PATH, index=index)
    hidden, (_, first) = model.first(x, PATH, return_attention_weights=True)
    _, (_, second) = model.second(hidden.relu(), PATH, return_attention_weights=True)
    expected = (first.mean(dim=1) + second.mean(dim=1)) / 2
    heard = explanation.edge_mask != 0
    torch.testing.assert_close(explanation.edge_mask[heard], expected[heard])
    assert heard.any() and (index is not None or heard.all())


def test_pg_explainer() -> None:
    model = Net()
    x, target = torch.randn(5, 8), torch.randint(7, (5,))
    explainer = explainer_of(model, PGExplainer(epochs=2), "phenomenon")
    for epoch in range(2):
        for index in range(5):
            loss = explainer.algorithm.train(epoch, model, x, PATH, target=target, index=index)
            assert loss >= 0
    check_mask(explainer(x, PATH, target=target, index=0).edge_mask, (8,))


@pytest.mark.parametrize("output", [None, 1])
@pytest.mark.parametrize("kind", ["node", "edge", "node_and_edge"])
def test_a_captum_model(kind: str, output: int | None) -> None:
    """With all edges and the features themselves, it is the model; with others, it is not."""
    model = Net().eval()
    x, mask = torch.randn(5, 8), torch.ones(8)
    captum = to_captum_model(model, mask_type=kind, output_idx=output)
    expected = model(x, PATH) if output is None else model(x, PATH)[[output]]

    def run(x: Tensor, mask: Tensor) -> Tensor:
        if kind == "node":
            return captum(x[None], PATH)
        given = (mask[None], x) if kind == "edge" else (x[None], mask[None])
        return captum(*given, PATH)

    torch.testing.assert_close(run(x, mask), expected)
    less = mask * 0.5
    less.requires_grad_()
    out = run(x * 0.5, less)
    assert not torch.allclose(out, expected)
    if kind != "node":
        out.sum().backward()
        assert less.grad.abs().max() > 0


def test_explanations_of_edges_of_several_types(hetero) -> None:
    class Papers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = to_hetero(Net((-1, -1)), (["paper", "author"], list(hetero[1])))

        def forward(self, x_dict: dict, edge_index_dict: dict) -> Tensor:
            return self.net(x_dict, edge_index_dict)["paper"]

    model = Papers()
    model(*hetero)
    for algorithm in (AttentionExplainer(), GNNExplainer(epochs=2)):
        masks = explainer_of(model, algorithm)(*hetero, index=2).edge_mask_dict
        assert set(masks) == set(hetero[1])
        for mask in masks.values():
            check_mask(mask, (20,))
    before = model(*hetero)
    zeros = {kind: torch.zeros(20) for kind in hetero[1]}
    set_hetero_masks(model, zeros, hetero[1])
    assert all(layer.explain for layer in model.net.first.values())
    clear_masks(model)
    assert torch.equal(model(*hetero), before)


# Nodes and edges of several types.


@pytest.mark.parametrize("aggr", ["sum", "mean", "min", "max", "cat", None])
def test_hetero_conv(hetero, aggr: str | None) -> None:
    """An edge type without a layer is left out, and a dot may be in a name."""
    x, edges = hetero
    x["src.paper"] = x.pop("paper")
    kinds = {kind: tuple(kind[i].replace("paper", "src.paper") for i in range(3)) for kind in edges}
    edges = {kinds[kind]: edge_index for kind, edge_index in edges.items()}
    edges["author", "knows", "author"] = torch.zeros(2, 3, dtype=torch.long)
    attr = {kind: torch.randn(edge_index.size(1), 3) for kind, edge_index in edges.items()}
    layers = {kind: OURS((-1, -1), 8, edge_dim=-1) for kind in kinds.values()}
    out = HeteroConv(layers, aggr=aggr)(x, edges, attr)
    parts = {
        kind: layers[kind]((x[kind[0]], x[kind[2]]), edges[kind], attr[kind])
        for kind in kinds.values()
    }
    two = torch.stack([parts[kinds[CITES]], parts[kinds[WRITES]]], dim=1)
    expected = {"cat": two.flatten(1), None: two, "min": two.amin(1), "max": two.amax(1)}
    expected |= {"sum": two.sum(1), "mean": two.mean(1)}
    torch.testing.assert_close(out["src.paper"], expected[aggr])
    one = parts[kinds[WRITTEN]]
    torch.testing.assert_close(out["author"], one[:, None] if aggr is None else one)


def test_to_hetero_is_the_sum_over_the_types_of_edges(hetero) -> None:
    """Sizes of nodes and of edge features read off each type's own."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = OURS((-1, -1), 4, 2, edge_dim=-1, beta=True)

        def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
            return self.conv(x, edge_index, edge_attr)

    x, edges = hetero
    attr = {kind: torch.randn(20, 2 + i) for i, kind in enumerate(edges)}
    model = to_hetero(One(), (list(x), list(edges)))
    out = model(x, edges, attr)

    def part(kind: tuple[str, str, str]) -> Tensor:
        conv = model.conv["__".join(kind)]
        return conv((x[kind[0]], x[kind[2]]), edges[kind], attr[kind])

    torch.testing.assert_close(out["paper"], part(CITES) + part(WRITES))
    torch.testing.assert_close(out["author"], part(WRITTEN))


# Other models.


def test_a_sequential_hands_on_attention_weights() -> None:
    conv = OURS(8, 4, 2)
    named = partial(conv, return_attention_weights=True)
    model = Sequential(
        "x, edge_index",
        [(named, "x, edge_index -> x, alpha"), (lambda x, alpha: (x, alpha[1]), "x, alpha -> y")],
    )
    x = torch.randn(5, 8)
    expected, (_, alpha) = named(x, PATH)
    torch.testing.assert_close(model(x, PATH), (expected, alpha))


@pytest.mark.parametrize("attention", ["multihead", "performer"])
@pytest.mark.parametrize("norm", [None, "batch_norm", "layer_norm"])
def test_gps_conv(attention: str, norm: str | None) -> None:
    gps = GPSConv(16, OURS(16, 4, heads=4), heads=4, norm=norm, attn_type=attention)
    gps.reset_parameters()
    assert "conv=SE2TransformerConv(16, 4, heads=4)" in repr(gps)
    x, batch = torch.randn(5, 16), torch.tensor([0, 0, 0, 1, 1])
    gps.eval()
    for rest in ((), (batch,)):
        out = gps(x, PATH, *rest)
        adj_t = to_torch_csc_tensor(PATH, size=(5, 5)).t()
        torch.testing.assert_close(gps(x, adj_t, *rest), out, atol=1e-5, rtol=1e-5)


class Basic(BasicGNN):
    """One of PyG's ready-made networks, of the layer."""

    supports_edge_weight = False
    supports_edge_attr = True
    supports_norm_batch = True

    def init_conv(self, in_channels: int | tuple, out_channels: int, **options) -> nn.Module:
        return OURS(in_channels, out_channels, **options)


@pytest.mark.parametrize("jk", [None, "last", "cat", "max", "lstm"])
@pytest.mark.parametrize("norm", [None, "BatchNorm", "GraphNorm"])
def test_a_basic_gnn(jk: str | None, norm: str | None) -> None:
    model = Basic(8, 16, 3, 7, jk=jk, norm=norm, dropout=0.5, edge_dim=3)
    assert repr(model) == "Basic(8, 7, num_layers=3)"
    x, edge_attr = torch.randn(5, 8), torch.randn(8, 3)
    out = model(x, PATH, edge_attr=edge_attr)
    assert out.shape == (5, 7)
    out.sum().backward()
    assert all(layer.lin_edge.weight.grad.abs().max() > 0 for layer in model.convs)


def test_a_basic_gnn_trims_layers_to_what_is_heard() -> None:
    model = Basic(8, 16, 2).eval()
    x, edges = torch.randn(4, 8), torch.tensor([[1, 2, 3], [0, 0, 1]])
    hops = {"num_sampled_nodes_per_hop": [1, 2, 1], "num_sampled_edges_per_hop": [2, 1]}
    torch.testing.assert_close(model(x, edges, **hops)[0], model(x, edges)[0])


def test_a_deep_gcn_layer_with_checkpoints() -> None:
    conv = OURS(8, 8)
    layer = DeepGCNLayer(conv, nn.LayerNorm(8), nn.ReLU(), block="plain", ckpt_grad=True)
    x = torch.randn(5, 8, requires_grad=True)
    expected = layer.norm(conv(x, PATH)).relu()
    torch.testing.assert_close(layer(x, PATH), expected)
    (grad,) = torch.autograd.grad(expected.square().sum(), x)
    layer(x, PATH).square().sum().backward()
    torch.testing.assert_close(x.grad, grad)


def test_a_replica_for_data_parallel() -> None:
    """Its parameters are plain attributes, so that it has none by ``parameters()``."""
    conv = SE2TransformerConv(8, 4, 2, vector_channels=2)
    replicas = {module: module._replicate_for_data_parallel() for module in conv.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = replicas.get(child)
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter * 1)
    replica = replicas[conv]
    x, pos = torch.randn(5, 8), torch.randn(5, 2)
    assert not list(replica.parameters())
    torch.testing.assert_close(replica(x, PATH, pos=pos), conv(x, PATH, pos=pos))
