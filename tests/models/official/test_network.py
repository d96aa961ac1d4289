from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch

from stofm_geo.models.official import OfficialNetwork, losses
from stofm_geo.models.official.network import Config


@pytest.mark.parametrize("gradients", [False, True])
def test_golden_outputs_and_pair_logits(golden, gradients: bool) -> None:
    network, batch = golden.network(), Batch.from_data_list(golden.graphs())
    with torch.set_grad_enabled(gradients):
        z, pairs = network(batch, batch.pair_index)
    assert (z - batch.z).abs().max() < 1e-4
    expected = golden["model/out.pair_rep_masked"]
    assert (pairs - expected).abs().max() < 1e-3 * expected.abs().max()
    assert ((pairs - expected).abs() <= 1e-3 * expected.abs() + 1e-4).all()


@torch.no_grad()
def test_golden_losses(golden) -> None:
    network, batch = golden.network(), Batch.from_data_list(golden.graphs())
    hidden, distance = losses(network, batch)
    torch.testing.assert_close(hidden, golden["model/out.loss"][0], rtol=1e-4, atol=0)
    torch.testing.assert_close(distance, golden["model/out.pair_loss"][0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("attention", ["slice", "edges"])
@torch.no_grad()
def test_a_batch_is_as_one_by_one(tiny, attention: str) -> None:
    network, graphs = tiny.network(attention), tiny.graphs()
    together = network(Batch.from_data_list(graphs))
    alone = torch.cat([network(graph) for graph in graphs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def carried(network: OfficialNetwork, graph, everyone: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The published recursion, with matrices of nodes x nodes; pairs beside the edges or not."""
    n, heads = graph.num_nodes, network.config.num_attention_heads
    distance = torch.full((n, n), 100.0, dtype=graph.x.dtype)
    dst, src = graph.edge_index[1], graph.edge_index[0]
    distance[dst, src] = graph.edge_attr
    told = torch.zeros(n, n, dtype=torch.bool)
    told[dst, src] = True
    logits = network.gaussian(distance.view(-1)).view(n, n, heads)
    x = network.embedding_layer(graph.x) + network.token_type_embeddings(graph.node_type)
    for layer in network.layers:
        q, k, v = layer.queries_keys_values(x)
        logits = logits + torch.einsum("ihc,jhc->ijh", q, k) / q.size(2) ** 0.5
        seen = logits if everyone else logits.masked_fill(~told[..., None], -torch.inf)
        x = layer.update(x, torch.einsum("ijh,jhc->ihc", seen.softmax(1), v))
    return x, logits


@pytest.mark.parametrize("attention", ["slice", "edges"])
def test_the_recursion_and_its_gradients(tiny, attention: str) -> None:
    """Without the matrices: same numbers, same gradients of the parameters."""
    graph, (one, other) = tiny.graphs()[1], (tiny.network(attention).double() for _ in range(2))
    graph.x, graph.edge_attr = graph.x.double(), graph.edge_attr.double()
    object.__setattr__(one, "_bias", one.gaussian)  # not from a table
    pairs = torch.randint(graph.num_nodes, (2, 70))
    z, logits = one(graph, pairs)
    expected, full = carried(other, graph, attention == "slice")
    wanted = full[pairs[1], pairs[0]]
    torch.testing.assert_close(z, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(logits, wanted, atol=1e-9, rtol=1e-9)
    slope, steep = torch.randn_like(z), torch.randn_like(logits)
    ((z * slope).sum() + (logits * steep).sum()).backward()
    ((expected * slope).sum() + (wanted * steep).sum()).backward()
    for (name, own), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        if "_head" not in name:
            gap = (own.grad - theirs.grad).abs().max() / theirs.grad.abs().max().clamp_min(1e-3)
            assert gap < 1e-8, name


def test_dropout_in_training_alone(tiny) -> None:
    network, graph = tiny.network(), tiny.graphs()[1]
    assert torch.equal(network(graph), network(graph))
    network.train()
    assert not torch.equal(network(graph), network(graph))
    torch.manual_seed(0)
    first = network(graph)
    torch.manual_seed(0)
    assert torch.equal(network(graph), first)


def test_bad_input_is_named(tiny) -> None:
    network, graphs = tiny.network(), tiny.graphs()
    batch = Batch.from_data_list(graphs)
    with pytest.raises(ValueError, match="joins nodes of different sub-slices"):
        network(batch, torch.tensor([[0], [batch.num_nodes - 1]]))
    graph = graphs[0].clone()
    graph.x = graph.x[:, :5]
    with pytest.raises(ValueError, match="x has 5 columns, the model takes 64"):
        network(graph)
    graph = graphs[0].clone()
    graph.edge_attr = None
    with pytest.raises(ValueError, match=r"official.subslices makes them"):
        network(graph)
    with pytest.raises(ValueError, match="unknown attention 'all'"):
        tiny.network("all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_dim": None}, "has no"),
        ({"num_attention_heads": 5}, "cannot be shared out among 5 heads"),
        ({"pre_layernorm": True}, "pre_layernorm = True"),
        ({"activation_fn": "tanh"}, "activation_fn = 'tanh'"),
    ],
)
def test_unfit_configurations_are_named(tiny, change: dict, message: str) -> None:
    values = tiny.config | change
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Config.read(values)
