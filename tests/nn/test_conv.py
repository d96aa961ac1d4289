from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch_geometric.data import Batch, Data
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import TransformerConv

from stofm_geo.nn import GaussianRadial, SE2TransformerConv
from tests.nn.helpers import attend, leaves_of, make_conv, make_graph, subset

SIZES = [(heads, channels) for heads in (1, 3, 8, 16) for channels in (1, 3, 8, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("heads", "channels"), SIZES)
def test_sizes(heads: int, channels: int, dtype) -> None:
    for concat, other in ((True, 17 - channels), (False, channels)):
        options = {"vector_channels": other, "in_vector_channels": 2, "out_vectors": True}
        conv = make_conv(5, channels, heads, concat=concat, dtype=dtype, **options)
        result = attend(conv, make_graph(conv, n=6, edges=12))
        side = heads if concat else 1
        assert result.x.shape == (6, side * channels)
        assert result.vectors.shape == (6, 2, side * other, 2)
        assert result.pair.shape == result.alpha.shape == (12, heads)
        assert all(part.dtype == dtype and part.isfinite().all() for part in result)


@pytest.mark.parametrize(("n", "edges"), [(0, 0), (1, 0), (5, 0), (1, 1), (1, 3), (9, 2)])
def test_graphs_with_little_in_them(options: dict, n: int, edges: int) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv, n, edges)
    leaves = leaves_of(graph)
    result = attend(conv, {**graph, **leaves})
    assert result.x.shape[0] == n and result.pair.shape == (edges, 3)
    some = [part for part in result if part is not None and part.requires_grad]
    sum(part.square().sum() for part in some).backward()
    for tensor in (*some, *(leaf.grad for leaf in leaves.values() if leaf.grad is not None)):
        assert tensor.isfinite().all()


def test_a_hub_of_all_edges_leaves_the_rest_isolated(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv, n=300, edges=2000)
    graph["edge_index"][1] = 7
    hub = attend(conv, graph)
    elsewhere = {**graph, "edge_index": graph["edge_index"].clone()}
    elsewhere["edge_index"][1] = 8
    rest = torch.arange(300) > 8
    other = attend(conv, elsewhere)
    assert torch.equal(hub.x[rest], other.x[rest]) and (hub.x[7:9] != other.x[7:9]).all()
    torch.testing.assert_close(hub.alpha.sum(0), torch.ones(3, dtype=torch.float64))
    single = {k: v.float() if k in leaves_of(graph) else v for k, v in graph.items()}
    again = attend(make_conv(dtype=torch.float32, **options), single)
    torch.testing.assert_close(again.x.double(), hub.x, atol=1e-4, rtol=1e-4)


def test_an_edge_twice_counts_twice(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    once = attend(conv, graph)
    all_twice = attend(conv, subset(graph, edge=torch.arange(40).repeat(2)))
    torch.testing.assert_close(all_twice[:2], once[:2])
    heavier = {**graph, "pair": graph["pair"].clone()}
    heavier["pair"][11] += torch.tensor(2.0).double().log()
    first_twice = attend(conv, subset(graph, edge=torch.tensor([*range(40), 11])))
    torch.testing.assert_close(first_twice[:2], attend(conv, heavier)[:2])
    assert (first_twice.x != once.x).any()


def test_inputs_that_are_not_contiguous(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    strided = {
        key: None if value is None else value.transpose(0, -1).contiguous().transpose(0, -1)
        for key, value in graph.items()
    }
    assert not any(value.is_contiguous() for value in strided.values() if value is not None)
    torch.testing.assert_close(attend(conv, strided)[:4], attend(conv, graph)[:4])


def test_numbering_and_order_do_not_matter(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    node, edge = torch.randperm(9), torch.randperm(40)
    before, after = attend(conv, graph), attend(conv, subset(graph, node, edge))
    torch.testing.assert_close(after.x, before.x[node])
    torch.testing.assert_close(after.pair, before.pair[edge])
    torch.testing.assert_close(after.alpha, before.alpha[edge])
    if before.vectors is not None:
        torch.testing.assert_close(after.vectors, before.vectors[node])


def test_a_batch_is_its_graphs_one_by_one(options: dict) -> None:
    conv = make_conv(**options)
    graphs = [make_graph(conv, n, e, n) for n, e in ((9, 40), (1, 0), (4, 7), (1, 1), (6, 30))]
    batch = Batch.from_data_list([Data(**graph) for graph in graphs]).to_dict()
    together = attend(conv, {key: batch.get(key) for key in graphs[0]})
    alone = [attend(conv, graph) for graph in graphs]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert (whole is None) == (parts[0] is None)
        if whole is not None:
            torch.testing.assert_close(whole, torch.cat(parts))


def test_two_kinds_of_nodes_are_one_graph_with_edges_between(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv, n=12)
    graph["edge_index"] = torch.stack([torch.randint(8, (40,)), torch.randint(8, 12, (40,))])
    expected = attend(conv, graph)
    two = {**graph, "edge_index": graph["edge_index"] - torch.tensor([[0], [8]])}
    for key in ("x", "pos", "vectors"):
        two[key] = None if graph[key] is None else (graph[key][:8], graph[key][8:])
    result = attend(conv, two)
    torch.testing.assert_close(result.x, expected.x[8:])
    torch.testing.assert_close(result[2:], expected[2:])
    if result.vectors is not None:
        torch.testing.assert_close(result.vectors, expected.vectors[8:])


@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("root_weight", [True, False])
@pytest.mark.parametrize("in_channels", [5, (5, 7)])
def test_without_positions_it_is_torch_geometrics_transformer_conv(
    edge_dim: int | None, concat: bool, root_weight: bool, in_channels
) -> None:
    options = {"edge_dim": edge_dim, "concat": concat, "root_weight": root_weight}
    theirs = TransformerConv(in_channels, 4, 3, **options).double()
    ours = make_conv(in_channels, radial=None, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x: Tensor | tuple[Tensor, Tensor] = torch.randn(9, 5, dtype=torch.float64)
    if in_channels != 5:
        x = (x, torch.randn(6, 7, dtype=torch.float64))
    edge_index = torch.stack([torch.randint(9, (40,)), torch.randint(6, (40,))])
    edge_attr = None if edge_dim is None else torch.randn(40, edge_dim, dtype=torch.float64)
    expected, (_, alpha) = theirs(x, edge_index, edge_attr, return_attention_weights=True)
    out, (edges, weights) = ours(x, edge_index, edge_attr=edge_attr, return_attention_weights=False)
    torch.testing.assert_close((out, weights), (expected, alpha))
    assert edges is edge_index


def test_on_all_pairs_it_is_torchs_attention_with_a_bias() -> None:
    conv = make_conv()
    graph = make_graph(conv, n=7, edges=49)
    dst, src = torch.cartesian_prod(torch.arange(7), torch.arange(7)).t()
    out = conv(**{**graph, "edge_index": torch.stack([src, dst])})
    bias = conv.geometry.radial(torch.cdist(graph["pos"], graph["pos"]).flatten()) + graph["pair"]
    q, k, v = (
        lin(graph["x"]).view(7, 3, 4).transpose(0, 1)
        for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.t().reshape(3, 7, 7))
    expected = expected.transpose(0, 1).flatten(1) + conv.lin_skip(graph["x"])
    torch.testing.assert_close(out, expected)


def test_the_pair_state_is_the_logits_and_the_weights_are_their_softmax(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    result, unbiased = attend(conv, graph), attend(conv, {**graph, "pair": None})
    torch.testing.assert_close(result.pair, unbiased.pair + graph["pair"])
    for node in range(9):
        into = graph["edge_index"][1] == node
        torch.testing.assert_close(result.alpha[into], result.pair[into].softmax(0))


def test_gradcheck(options: dict) -> None:
    conv = make_conv(3, 2, 2, **options)
    graph = make_graph(conv, n=4, edges=7)
    leaves = leaves_of(graph)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        return conv(**{**graph, **dict(zip(leaves, values, strict=True))}, return_pair=True)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


def test_every_parameter_has_a_gradient(options: dict) -> None:
    conv = make_conv(**options)
    result = attend(conv, make_graph(conv, n=30, edges=200))
    sum(part.sin().sum() for part in result if part is not None).backward()
    for name, parameter in conv.named_parameters():
        if not parameter.requires_grad:
            assert name.startswith("lin_skip") and not conv.root_weight
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_everything_as_messages_is_the_same(options: dict) -> None:
    results = []
    for fuse in (True, False):
        conv = make_conv(**options)
        conv.fuse = fuse
        graph = make_graph(conv)
        leaves = leaves_of(graph)
        parts = [part for part in attend(conv, {**graph, **leaves}) if part is not None]
        sum(part.sin().sum() for part in parts).backward()
        grads = [leaf.grad for leaf in (*leaves.values(), *conv.parameters())]
        results.append([*parts, *grads])
    torch.testing.assert_close(*results)


def test_who_looks_at_the_messages_sees_all_of_them() -> None:
    conv = make_conv(radial=None)
    graph = make_graph(conv)
    expected = conv(**graph)
    seen = []
    handle = conv.register_message_forward_hook(lambda *call: seen.append(call[2]))
    torch.testing.assert_close(conv(**graph), expected)
    assert seen[0].shape == (40, 3, 4)
    handle.remove()
    conv(**graph)
    assert len(seen) == 1


def test_torch_geometrics_explainers_can_mask_edges() -> None:
    conv = make_conv(edge_dim=3)
    graph = make_graph(conv)
    expected = conv(**graph)
    for share, out in ((1.0, expected), (0.0, conv.lin_skip(graph["x"]))):
        mask = Parameter(torch.full((40,), share, dtype=torch.float64))
        set_masks(conv, mask, graph["edge_index"], apply_sigmoid=False)
        torch.testing.assert_close(conv(**graph), out)
        clear_masks(conv)
    torch.testing.assert_close(conv(**graph), expected)


@pytest.mark.parametrize("channels", [-1, (-1, -1)])
def test_sizes_can_be_read_off_the_first_input(options, channels) -> None:
    lazy = SE2TransformerConv(channels, 4, 3, **options).double()
    conv = make_conv(**options)
    graph = make_graph(conv)
    lazy(**graph)
    assert [p.shape for p in lazy.parameters()] == [p.shape for p in conv.parameters()]
    lazy.load_state_dict(conv.state_dict())
    torch.testing.assert_close(lazy(**graph), conv(**graph))


def test_dropout_of_weights_only_in_training_and_right_on_average() -> None:
    conv = make_conv(dropout=0.4, radial=None)
    graph = make_graph(conv)
    del graph["pos"]
    expected, weights = conv(**graph, return_attention_weights=True)
    torch.testing.assert_close(conv(**graph), expected)
    conv.train()
    torch.manual_seed(0)
    out, dropped = conv(**graph, return_attention_weights=True)
    assert not torch.allclose(out, expected) and torch.equal(dropped[1], weights[1])
    mean = torch.stack([conv(**graph) for _ in range(1000)]).mean(0)
    torch.testing.assert_close(mean, expected, atol=0.15, rtol=0)


def test_reset_draws_every_parameter_anew(options: dict) -> None:
    conv = make_conv(**options)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.fill_(7)
    conv.reset_parameters()
    assert not any((parameter == 7).any() for parameter in conv.parameters())
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        conv.reset_parameters()
        drawn.append([p.clone() for p in conv.parameters()])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not all(map(torch.equal, drawn[0], drawn[2]))


def test_what_is_returned_comes_in_one_order() -> None:
    conv = make_conv(vector_channels=1, out_vectors=True)
    graph = make_graph(conv)
    assert [part.shape[0] for part in conv(**graph)] == [9, 9]
    assert [part.shape[0] for part in conv(**graph, return_pair=True)] == [9, 9, 40]
    assert len(conv(**graph, return_attention_weights=False)) == 3
    assert isinstance(make_conv()(**graph), Tensor)


def test_inputs_stay_as_they_were(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    before = {key: value.clone() for key, value in graph.items() if value is not None}
    attend(conv, graph)
    assert all(torch.equal(graph[key], value) for key, value in before.items())


def test_repr() -> None:
    conv = SE2TransformerConv(5, 4, heads=3)
    assert repr(conv) == "SE2TransformerConv(5, 4, heads=3)"
    conv = SE2TransformerConv((-1, 7), 4, vector_channels=2)
    assert repr(conv) == "SE2TransformerConv((-1, 7), 4, heads=1, vector_channels=2)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_channels": 0}, "out_channels must be 1 or more; found 0"),
        ({"heads": -2}, "heads must be 1 or more; found -2"),
        ({"out_vectors": True}, "need vector_channels of 1 or more"),
        ({"in_vector_channels": 2}, "need vector_channels of 1 or more"),
        ({"vector_channels": 1, "max_order": 0}, "max_order must be 1 or more; found 0"),
        ({"vector_channels": -1}, "^vector_channels must be 0 or more; found -1"),
        ({"in_vector_channels": -1}, "^in_vector_channels must be 0 or more; found -1"),
        ({"edge_dim": -2}, "edge_dim must be -1 or more; found -2"),
    ],
)
def test_sizes_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SE2TransformerConv(5, **{"out_channels": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radial": torch.nn.Linear(1, 1)}, "radial must construct a module.*found Linear"),
        ({"radial": "gaussian"}, "radial must construct a module.*found 'gaussian'"),
        ({"vector_chanels": 2}, "has no argument 'vector_chanels'"),
        ({"tolerance": "small"}, "tolerance must be a number"),
    ],
)
def test_options_of_another_type(options: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SE2TransformerConv(5, 4, **options)


def test_radial_functions_of_another_number() -> None:
    conv = make_conv(dtype=torch.float32, radial=lambda n: GaussianRadial(n + 1))
    with pytest.raises(ValueError, match=r"of n=3 functions; found \[40, 4\]"):
        conv(**make_graph(conv))
    with pytest.raises(ValueError, match="tolerance must be above zero; found -1"):
        SE2TransformerConv(5, 4, tolerance=-1)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, {"pos": None}, "pos is missing"),
        ({}, {"pos": np.zeros((9, 2))}, r"must be a tensor .* found \['ndarray', 'ndarray'\]"),
        ({}, {"edge_attr": torch.rand(40, 3)}, r"without edge_dim; found.*\[\[40, 3\]\]"),
        ({"edge_dim": 3}, {"edge_attr": None}, r"edge_dim\] = \[40, 3\]; found \[None\]"),
        ({"edge_dim": 3}, {"edge_attr": torch.rand(40, 2)}, r"found \[\[40, 2\]\]"),
        ({"edge_dim": 3}, {"edge_attr": torch.rand(39, 3)}, r"found \[\[39, 3\]\]"),
        ({"edge_dim": 3}, {"edge_attr": torch.rand(40)}, r"found \[\[40, 1\]\]"),
        ({}, {"pair": torch.rand(40, 2)}, r"pair must be \[E, H\] = \[40, 3\]; found \[\[40, 2\]"),
        (
            {"in_vector_channels": 2, "vector_channels": 2},
            {"vectors": torch.rand(9, 2, 2, 2).double()},
            "vectors must be torch.float32 as the layer is; found torch.float64",
        ),
        ({}, {"pair": torch.rand(40)}, r"found \[\[40\]\]"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(
    options: dict, change: dict, message: str
) -> None:
    conv = make_conv(dtype=torch.float32, **options)
    with pytest.raises(ValueError, match=message):
        conv(**{**make_graph(conv), **change})


def test_outputs_can_be_changed_in_place(options: dict) -> None:
    conv = make_conv(**{**options, "root_weight": False, "out_vectors": False})
    graph = make_graph(conv)
    grads = []
    for inplace in (False, True):
        leaves = leaves_of(graph)
        out = conv(**{**graph, **leaves})
        torch.nn.functional.relu(out, inplace=inplace).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves.values()])
    torch.testing.assert_close(*grads)
