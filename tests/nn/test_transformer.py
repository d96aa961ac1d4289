from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from stofm_geo.nn import DistanceHead, SE2Transformer


@pytest.fixture
def model() -> SE2Transformer:
    torch.manual_seed(0)
    return SE2Transformer(12, num_layers=3, heads=3, num_gaussians=8).double().eval()


def graph(n: int = 15, edges: int = 60, seed: int = 0) -> Data:
    draw = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n, 12, generator=draw, dtype=torch.float64),
        pos=5 * torch.randn(n, 2, generator=draw, dtype=torch.float64),
        edge_index=torch.randint(n, (2, edges), generator=draw),
    )


def run(model: SE2Transformer, data: Data) -> tuple[Tensor, Tensor]:
    src, dst = data.edge_index
    return model(data.x, data.edge_index, (data.pos[src] - data.pos[dst]).norm(dim=1))


def test_turning_and_shifting_changes_nothing(model: SE2Transformer) -> None:
    data = graph()
    expected = run(model, data)
    for angle, shift in [(0.3, 0.0), (2.0, 1e3), (math.pi, -50.0)]:
        cos, sin = math.cos(angle), math.sin(angle)
        moved = data.clone()
        moved.pos = data.pos @ torch.tensor([[cos, sin], [-sin, cos]]).double() + shift
        torch.testing.assert_close(run(model, moved), expected, atol=1e-9, rtol=1e-9)
    stretched = data.clone()
    stretched.pos = 2 * data.pos
    assert (run(model, stretched)[0] - expected[0]).abs().max() > 1e-4


def test_numbering_and_order_do_not_matter(model: SE2Transformer) -> None:
    data = graph()
    out, pair = run(model, data)
    node, edge = torch.randperm(15), torch.randperm(60)
    again = Data(
        x=data.x[node], pos=data.pos[node], edge_index=node.argsort()[data.edge_index][:, edge]
    )
    torch.testing.assert_close(run(model, again), (out[node], pair[edge]))


def test_a_batch_is_its_graphs_one_by_one(model: SE2Transformer) -> None:
    graphs = [graph(15, 60, 0), graph(4, 5, 1), graph(1, 0, 2), graph(9, 50, 3)]
    out, pair = run(model, Batch.from_data_list(graphs))
    alone = [run(model, one) for one in graphs]
    torch.testing.assert_close(out, torch.cat([one[0] for one in alone]))
    torch.testing.assert_close(pair, torch.cat([one[1] for one in alone]))


def test_the_pair_state_is_the_bias_and_the_products_of_all_layers(model: SE2Transformer) -> None:
    """``A_l = B_0 + sum_m q_m k_m``, an identity of the published model."""
    data = graph()
    src, dst = data.edge_index
    distance = (data.pos[src] - data.pos[dst]).norm(dim=1)
    qkv: list[Tensor] = []
    hooks = [
        block.attention.lin_qkv.register_forward_hook(lambda *call: qkv.append(call[2]))
        for block in model.blocks
    ]
    pair = run(model, data)[1]
    for hook in hooks:
        hook.remove()
    expected = model.radial(distance)
    for layer in qkv:
        q, k, _ = layer.view(15, 3, 3, 4).unbind(1)
        expected = expected + (q[dst] * k[src]).sum(-1) / 2
    assert len(qkv) == 3
    torch.testing.assert_close(pair, expected)


def test_a_node_hears_only_of_those_within_as_many_steps_as_layers(model: SE2Transformer) -> None:
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])
    x = torch.randn(10, 12, dtype=torch.float64)
    distance = torch.ones(9, dtype=torch.float64)
    before = model(x, chain, distance)[0]
    x[0] += 1
    moved = (model(x, chain, distance)[0] != before).any(dim=1)
    assert moved.tolist() == [True] * 4 + [False] * 6


def test_gradients_reach_every_parameter(model: SE2Transformer) -> None:
    out, pair = run(model, graph())
    (out.sin().sum() + pair.sin().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # The keys' bias shifts all logits of a node alike, which only the pair state sees.
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("n", "edges"), [(0, 0), (1, 0), (3, 0), (2, 1)])
def test_graphs_with_little_in_them(model: SE2Transformer, n: int, edges: int) -> None:
    out, pair = run(
        model,
        graph(n, edges)
        if n
        else Data(
            x=torch.empty(0, 12).double(),
            pos=torch.empty(0, 2).double(),
            edge_index=torch.empty(2, 0, dtype=torch.long),
        ),
    )
    assert out.shape == (n, 12) and pair.shape == (edges, 3) and out.isfinite().all()


def test_reset_draws_every_parameter_anew(model: SE2Transformer) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.reset_parameters()
    assert not any((parameter == 7).any() for parameter in model.parameters())
    torch.manual_seed(5)
    model.reset_parameters()
    first = [p.clone() for p in model.parameters()]
    torch.manual_seed(5)
    model.reset_parameters()
    assert all(map(torch.equal, first, model.parameters()))


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    model = SE2Transformer(12, num_layers=1, heads=3, dropout=0.5).double()
    data = graph()
    assert not torch.equal(run(model, data)[0], run(model, data)[0])
    model.eval()
    assert torch.equal(run(model, data)[0], run(model, data)[0])


def test_heads() -> None:
    for edges in (0, 1, 7):
        assert DistanceHead(3)(torch.rand(edges, 3)).shape == (edges,)
