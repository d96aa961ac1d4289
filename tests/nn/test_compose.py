"""The layer among those of PyG, e3nn and PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch_geometric
from e3nn import o3
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Data, HeteroData
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.loader import (
    ClusterData,
    ClusterLoader,
    NeighborLoader,
    NodeLoader,
)
from torch_geometric.nn import (
    GATv2Conv,
    GPSConv,
    HeteroConv,
    JumpingKnowledge,
    Sequential,
    to_hetero,
)
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput
from torch_geometric.transforms import Compose
from torch_geometric.utils import k_hop_subgraph

from stofm_geo.datasets import toy_tissue
from stofm_geo.nn import SE2Transformer, SE2TransformerConv, to_irreps
from stofm_geo.transforms import HeteroView, MacroNodes, NormalizePositions, SpatialKNN, SubSlices

SAMPLER = torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE


@pytest.fixture(scope="module")
def data() -> Data:
    import stofm_geo

    data = stofm_geo.from_anndata(toy_tissue(200, seed=0))
    data = Compose([NormalizePositions(), SpatialKNN(6)])(data)
    data.pos = data.pos.float()
    return data


class Net(nn.Module):
    """Two layers, so that a node hears of those two edges away."""

    def __init__(self, size: int = -1, **options) -> None:
        super().__init__()
        self.first = SE2TransformerConv(size, 4, heads=2, **options)
        self.second = SE2TransformerConv(8 if size > 0 else -1, 3, **options)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index, pos=pos).relu(), edge_index, pos=pos)


@pytest.fixture
def net(data: Data) -> Net:
    torch.manual_seed(0)
    return Net(data.num_features, vector_channels=2).eval()


def turned(pos: Tensor) -> Tensor:
    return pos @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 3


def test_in_gps(data: Data) -> None:
    torch.manual_seed(0)
    gps = GPSConv(16, SE2TransformerConv(16, 4, heads=4, vector_channels=2), heads=2).eval()
    x = torch.randn(data.num_nodes, 16)
    out = gps(x, data.edge_index, pos=data.pos)
    assert out.shape == x.shape
    torch.testing.assert_close(
        gps(x, data.edge_index, pos=turned(data.pos)), out, atol=1e-4, rtol=1e-4
    )


def test_in_a_sequential_after_gatv2_with_vectors_handed_on_and_jumping_knowledge(
    data: Data,
) -> None:
    torch.manual_seed(0)
    layers = [
        GATv2Conv(data.num_features, 8),
        SE2TransformerConv(8, 4, 2, vector_channels=2, out_vectors=True),
        SE2TransformerConv(8, 4, 2, vector_channels=2, in_vector_channels=4),
    ]
    model = Sequential(
        "x, edge_index, edge_attr, pos",
        [
            (layers[0], "x, edge_index -> x0"),
            (layers[1], "x0, edge_index, edge_attr, pos -> x1, v"),
            (layers[2], "x1, edge_index, edge_attr, pos, v -> x2"),
            (lambda *xs: list(xs), "x0, x1, x2 -> xs"),
            (JumpingKnowledge("cat"), "xs -> x"),
        ],
    )
    x0 = layers[0](data.x, data.edge_index)
    x1, v = layers[1](x0, data.edge_index, pos=data.pos)
    x2 = layers[2](x1, data.edge_index, pos=data.pos, vectors=v)
    out = model(data.x, data.edge_index, None, data.pos)
    torch.testing.assert_close(out, torch.cat([x0, x1, x2], dim=1))


def test_before_an_e3nn_layer(data: Data) -> None:
    torch.manual_seed(0)
    conv = SE2TransformerConv(data.num_features, 4, heads=2, vector_channels=3, out_vectors=True)
    linear = o3.Linear(conv.irreps_out, "4x0e + 2x1o + 1x2e")
    out = linear(to_irreps(*conv(data.x, data.edge_index, pos=data.pos)))
    again = linear(to_irreps(*conv(data.x, data.edge_index, pos=turned(data.pos))))
    turn = torch.tensor([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    expected = out @ linear.irreps_out.D_from_matrix(turn).t()
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)
    assert (again - out).abs().max() > 1e-2


@pytest.fixture(scope="module")
def hetero(data: Data) -> HeteroData:
    return Compose([MacroNodes(max_nodes=4), HeteroView()])(data)


def test_in_hetero_conv(hetero: HeteroData) -> None:
    torch.manual_seed(0)
    layers = {
        kind: SE2TransformerConv((-1, -1), 4, heads=2, vector_channels=2)
        for kind in hetero.edge_types
    }
    out = HeteroConv(layers)(hetero.x_dict, hetero.edge_index_dict, pos_dict=hetero.pos_dict)
    assert out["cell"].shape == (200, 8) and out["macro"].shape == (4, 8)
    expected = sum(
        layers[one, "to", "macro"](
            (hetero[one].x, hetero["macro"].x),
            hetero[one, "to", "macro"].edge_index,
            pos=(hetero[one].pos, hetero["macro"].pos),
        )
        for one in ("cell", "macro")
    )
    torch.testing.assert_close(out["macro"], expected)


def test_by_to_hetero(hetero: HeteroData) -> None:
    model = to_hetero(Net(), hetero.metadata())
    out = model(hetero.x_dict, hetero.edge_index_dict, hetero.pos_dict)
    assert out["cell"].shape == (200, 3) and out["macro"].shape == (4, 3)
    sum(part.sum() for part in out.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_on_sub_slices_with_a_halo_it_is_as_on_the_whole(data: Data, net: Net) -> None:
    whole = net(data.x, data.edge_index, data.pos)
    for subslice in SubSlices(num_cells=60, halo=2)(data):
        out = net(subslice.x, subslice.edge_index, subslice.pos)
        core = subslice.core_mask
        torch.testing.assert_close(out[core], whole[subslice.n_id[core]], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not SAMPLER, reason="NeighborLoader needs pyg-lib or torch-sparse")
def test_with_neighbor_loader(data: Data, net: Net) -> None:
    whole = net(data.x, data.edge_index, data.pos)
    for batch in NeighborLoader(data, num_neighbors=[-1, -1], batch_size=64):
        out = net(batch.x, batch.edge_index, batch.pos)[: batch.batch_size]
        torch.testing.assert_close(out, whole[batch.n_id[: batch.batch_size]], atol=1e-5, rtol=1e-5)


class Hops(BaseSampler):
    """All nodes within two edges; what NeighborLoader does, without a package of its own."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs) -> SamplerOutput:
        near, _, _, _ = k_hop_subgraph(index.node, 2, self.data.edge_index)
        nodes = torch.cat([index.node, near[~torch.isin(near, index.node)]])
        place = torch.full((self.data.num_nodes,), -1)
        place[nodes] = torch.arange(len(nodes))
        edges = (place[self.data.edge_index] >= 0).all(dim=0).nonzero().view(-1)
        row, col = place[self.data.edge_index[:, edges]]
        return SamplerOutput(nodes, row, col, edges, metadata=(index.input_id, index.time))

    def sample_from_edges(self, index: object, **kwargs) -> SamplerOutput:
        raise NotImplementedError


def test_with_a_node_loader(data: Data, net: Net) -> None:
    whole = net(data.x, data.edge_index, data.pos)
    for batch in NodeLoader(data, Hops(data), batch_size=64):
        out = net(batch.x, batch.edge_index, batch.pos)[: batch.batch_size]
        torch.testing.assert_close(out, whole[batch.input_id], atol=1e-5, rtol=1e-5)


def test_with_cluster_loader(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters are tiles of the tissue here; METIS, PyG's own way, may not be installed."""
    tile = torch.empty(data.num_nodes, dtype=torch.long)
    for number, subslice in enumerate(SubSlices(num_cells=50, halo=0)(data)):
        tile[subslice.n_id] = number
    monkeypatch.setattr(ClusterData, "_metis", lambda self, edge_index, num_nodes: tile)
    graph = Data(x=data.x, pos=data.pos, edge_index=data.edge_index, y=tile % 3)
    loader = ClusterLoader(ClusterData(graph, 4, log=False), batch_size=2, shuffle=True)
    net = Net(data.num_features)
    optimizer = torch.optim.Adam(net.parameters())
    before = [parameter.clone() for parameter in net.parameters()]
    seen = 0
    for batch in loader:
        out = net(batch.x, batch.edge_index, batch.pos)
        nn.functional.cross_entropy(out, batch.y).backward()
        optimizer.step()
        seen += batch.num_nodes
    assert seen == data.num_nodes
    assert not any(map(torch.equal, before, net.parameters()))


CONFIG = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}


def test_explained_by_gnn_explainer(data: Data, net: Net) -> None:
    explainer = Explainer(
        net,
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config=CONFIG,
    )
    mask = explainer(data.x, data.edge_index, pos=data.pos, index=0).edge_mask
    heard, _, _, _ = k_hop_subgraph(0, 1, data.edge_index)
    near = torch.isin(data.edge_index[1], heard)  # edges that reach node 0 within two layers
    assert (mask[near] > 0).all() and (mask[~near] == 0).all()
    assert not net.first.explain


def test_explained_by_attention(data: Data, net: Net) -> None:
    explainer = Explainer(
        net,
        AttentionExplainer(reduce="mean"),
        explanation_type="model",
        edge_mask_type="object",
        model_config=CONFIG,
    )
    mask = explainer(data.x, data.edge_index, pos=data.pos).edge_mask
    alphas, x = [], data.x
    for layer in (net.first, net.second):
        x, (_, alpha) = layer(x, data.edge_index, pos=data.pos, return_attention_weights=True)
        alphas.append(alpha.mean(dim=1))
        x = x.relu()
    torch.testing.assert_close(mask, torch.stack(alphas).mean(dim=0))


@pytest.mark.slow
def test_compiled_without_a_break_for_any_size(data: Data) -> None:
    torch.manual_seed(0)
    model = SE2Transformer(8, num_layers=1, heads=2, vector_channels=4, dropout=0)
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend="aot_eager")
    for n in (200, 50, 120):
        # Every size by the first compilation: another one would raise.
        with torch._dynamo.config.patch(error_on_recompile=n != 200):
            edge_index = data.edge_index[:, (data.edge_index < n).all(dim=0)]
            x = torch.randn(n, 8)
            expected = model(x, edge_index, data.pos[:n].clone())
            out = compiled(x, edge_index, data.pos[:n].clone())
            torch.testing.assert_close(tuple(out), tuple(expected), atol=1e-5, rtol=1e-5)
            out.x.sum().backward()


@pytest.mark.slow
def test_exported_for_any_size(data: Data, net: Net) -> None:
    nodes, edges = torch.export.Dim("N", min=2), torch.export.Dim("E", min=2)
    args = (data.x, data.edge_index, data.pos)
    program = torch.export.export(net, args, dynamic_shapes=({0: nodes}, {1: edges}, {0: nodes}))
    inside = (data.edge_index < 70).all(dim=0)
    less = (data.x[:70], data.edge_index[:, inside], data.pos[:70])
    torch.testing.assert_close(program.module()(*less), net(*less))


@pytest.mark.parametrize("vectors", [0, 2])
def test_in_bfloat16_under_autocast(data: Data, vectors: int) -> None:
    torch.manual_seed(0)
    net = Net(data.num_features, vector_channels=vectors)
    expected = net(data.x, data.edge_index, data.pos)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(data.x, data.edge_index, data.pos)
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_checkpointing_gives_the_same_gradients(data: Data, net: Net) -> None:
    args = (data.x, data.edge_index, data.pos)
    net(*args).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    checkpoint(net, *args, use_reentrant=False).square().sum().backward()
    for parameter, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
