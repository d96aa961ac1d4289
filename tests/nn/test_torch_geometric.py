"""The situations of PyG's tests of ``TransformerConv`` and ``GATv2Conv``, with its values.

Messages, models and what is refused have files of their own beside this one.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import TransformerConv
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from stofm_geo.nn import SE2TransformerConv

EXACT = {"atol": 1e-10, "rtol": 1e-10}
MAKERS = {"coo": to_torch_coo_tensor, "csr": to_torch_csr_tensor, "csc": to_torch_csc_tensor}
OURS = partial(SE2TransformerConv, radial=None)
EDGES = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
OPTIONS = list(itertools.product([True, False], repeat=4))  # concat, beta, root_weight, bias


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def pair_of(*args: object, **options: object) -> tuple[SE2TransformerConv, TransformerConv]:
    """Ours and theirs, of the same parameters."""
    ours = OURS(*args, **options)
    theirs = TransformerConv(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours.double(), theirs.double()


def inputs_of(in_channels: int | tuple, edge_dim: int | None = None) -> tuple:
    """Features of 9 nodes, or of 9 and 6, edges among the first of them, and edge features."""
    bipartite = isinstance(in_channels, tuple)
    x = (randn(9, 5), randn(6, 7)) if bipartite else randn(9, 5)
    edge_index = torch.stack([torch.randint(8, (30,)), torch.randint(5, (30,))])
    return x, edge_index, None if edge_dim is None else randn(30, 3)


def gradients(conv: nn.Module, x: Tensor | tuple, edge_index: Tensor, edge_attr) -> list[Tensor]:
    """Outputs, attention weights, and gradients of parameters and inputs by name."""
    conv.zero_grad()
    many = [part.clone().requires_grad_() for part in (x if isinstance(x, tuple) else (x,))]
    edge_attr = None if edge_attr is None else edge_attr.clone().requires_grad_()
    given = tuple(many) if isinstance(x, tuple) else many[0]
    out, (_, alpha) = conv(given, edge_index, edge_attr, return_attention_weights=True)
    (out.square().sum() + alpha.square().sum()).backward()
    leaves = [*many, *([] if edge_attr is None else [edge_attr]), *conv.parameters()]
    return [out, alpha, *(torch.zeros(()) if t.grad is None else t.grad for t in leaves)]


@pytest.mark.parametrize("edge_dim", [None, 3])
@pytest.mark.parametrize("in_channels", [5, (5, 7)])
@pytest.mark.parametrize(("concat", "beta", "root_weight", "bias"), OPTIONS)
def test_values_and_gradients_are_those_of_transformer_conv(
    concat: bool, beta: bool, root_weight: bool, bias: bool, in_channels, edge_dim: int | None
) -> None:
    ours, theirs = pair_of(in_channels, 4, 3, concat, beta, 0.0, edge_dim, bias, root_weight)
    graph = inputs_of(in_channels, edge_dim)
    found, expected = gradients(ours, *graph), gradients(theirs, *graph)
    assert len(found) == len(expected)
    for ours_part, theirs_part in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_part, theirs_part, **EXACT)


@pytest.mark.parametrize("edge_dim", [None, 3, -1])
@pytest.mark.parametrize("in_channels", [5, (5, 7), -1, (-1, -1), (5, -1)])
@pytest.mark.parametrize(("concat", "beta", "root_weight", "bias"), OPTIONS)
def test_state_dicts_load_strictly_in_both_directions(
    concat: bool, beta: bool, root_weight: bool, bias: bool, in_channels, edge_dim: int | None
) -> None:
    """Of sizes known or not yet, into sizes known or not yet."""
    known = (5, 7) if isinstance(in_channels, tuple) else 5
    rest = (4, 3, concat, beta, 0.0)
    size = edge_dim and 3
    graph = inputs_of(known, size)
    for kinds in ((TransformerConv, OURS), (OURS, TransformerConv)):
        sizes = ((known, size), (in_channels, edge_dim))
        source, target = (
            kind(channels, *rest, edge, bias, root_weight).double()
            for kind, (channels, edge) in zip(kinds, sizes, strict=True)
        )
        assert list(source.state_dict()) == list(target.state_dict())
        target.load_state_dict(source.state_dict(), strict=True)
        torch.testing.assert_close(target(*graph), source(*graph), **EXACT)
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize("in_channels", [-1, (-1, -1)])
def test_a_state_dict_without_sizes_goes_round(in_channels) -> None:
    options = {"beta": True, "edge_dim": -1}
    lazy = OURS(in_channels, 4, 2, **options)
    other = TransformerConv(in_channels, 4, 2, **options)
    other.load_state_dict(lazy.state_dict())
    lazy.load_state_dict(other.state_dict())
    lazy, other = lazy.double(), other.double()
    graph = inputs_of((5, 7) if in_channels != -1 else 5, 3)
    lazy(*graph)
    other.load_state_dict(lazy.state_dict())
    torch.testing.assert_close(other(*graph), lazy(*graph), **EXACT)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
def test_a_layer_without_sizes_can_be_copied(way) -> None:
    lazy = way(SE2TransformerConv((-1, -1), 4, 2, radial=None, edge_dim=-1, root_weight=False))
    lazy = lazy.double()
    lazy.reset_parameters()
    graph = inputs_of((5, 7), 3)
    out = lazy(*graph)
    again = way(lazy)
    assert torch.equal(again(*graph), out)
    assert not any(parameter.requires_grad for parameter in again.lin_skip.parameters())
    assert again.lin_key.weight.data_ptr() != lazy.lin_key.weight.data_ptr()


def test_the_same_seed_draws_the_same_parameters() -> None:
    ours, theirs = pair_of(8, 4, 2, True, True, edge_dim=3)
    for conv in (ours, theirs):
        torch.manual_seed(5)
        conv.reset_parameters()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_layer_saved_whole_is_loaded_whole() -> None:
    conv = SE2TransformerConv(8, 4, 2, vector_channels=2, edge_dim=3)
    graph = {"x": torch.randn(4, 8), "edge_index": EDGES, "edge_attr": torch.randn(4, 3)}
    graph["pos"] = torch.randn(4, 2)
    file = io.BytesIO()
    torch.save(conv, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(**graph), conv(**graph))
    state = io.BytesIO()
    torch.save(conv.state_dict(), state)
    state.seek(0)
    other = SE2TransformerConv(8, 4, 2, vector_channels=2, edge_dim=3)
    other.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(other(**graph), conv(**graph))


def test_a_shallow_copy_shares_parameters_and_a_deep_one_does_not() -> None:
    conv = SE2TransformerConv(8, 4)
    shallow, deep = copy.copy(conv), copy.deepcopy(conv)
    assert shallow.lin_key.weight is conv.lin_key.weight
    assert deep.lin_key.weight is not conv.lin_key.weight
    assert torch.equal(deep.lin_key.weight, conv.lin_key.weight)
    assert len({conv, shallow, deep}) == 3


# Edges, in all forms.


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(getattr(torch, name), "tensor") for name in ("uint8", "int8", "int16", "int32")]
    + [(torch.int32, "EdgeIndex")],
)
def test_indices_of_any_width(dtype: torch.dtype, kind: str) -> None:
    ours, theirs = pair_of(8, 4, 2)
    x = randn(4, 8)
    edges = EDGES.to(dtype)
    edges = EdgeIndex(edges, sparse_size=(4, 4)) if kind == "EdgeIndex" else edges
    out, (same, _) = ours(x, edges, return_attention_weights=True)
    torch.testing.assert_close(out, theirs(x, EDGES), **EXACT)
    assert same is edges


@pytest.mark.parametrize("sort_order", ["row", "col", None])
@pytest.mark.parametrize("size", [(9, 6), (None, 6), (9, None), (None, None)])
def test_an_edge_index_in_any_order_and_with_sizes_or_without(sort_order, size) -> None:
    ours, theirs = pair_of((5, 7), 4, 2, edge_dim=3)
    x, edges, edge_attr = inputs_of((5, 7), 3)
    if sort_order is not None:
        edges = edges[:, edges[0 if sort_order == "row" else 1].argsort(stable=True)]
    given = EdgeIndex(edges, sparse_size=size, sort_order=sort_order)
    out, (same, alpha) = ours(x, given, edge_attr, return_attention_weights=True)
    expected, (_, weights) = theirs(x, edges, edge_attr, return_attention_weights=True)
    torch.testing.assert_close((out, alpha), (expected, weights), **EXACT)
    assert same is given


def test_an_undirected_edge_index() -> None:
    ours, theirs = pair_of(8, 4, 2)
    x = randn(4, 8)
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    for order in ("row", "col"):
        by = edges[:, edges[0 if order == "row" else 1].argsort(stable=True)]
        given = EdgeIndex(by, sparse_size=(4, 4), sort_order=order, is_undirected=True)
        torch.testing.assert_close(ours(x, given), theirs(x, edges), **EXACT)


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("bipartite", [False, True])
def test_a_sparse_matrix_of_each_layout(layout: str, bipartite: bool) -> None:
    ours, theirs = pair_of((8, 16) if bipartite else 8, 32, 2, beta=True, edge_dim=8)
    x = (randn(4, 8), randn(2, 16)) if bipartite else randn(4, 8)
    edge_attr = randn(4, 8)
    adj_t = MAKERS[layout](EDGES, size=(4, 2 if bipartite else 4)).t()
    expected, (_, weights) = theirs(x, EDGES, edge_attr, return_attention_weights=True)
    out, (matrix, alpha) = ours(x, adj_t, edge_attr, return_attention_weights=True)
    torch.testing.assert_close((out, alpha), (expected, weights), **EXACT)
    assert matrix.shape == (*adj_t.shape, 2) and matrix.layout == adj_t.layout
    torch.testing.assert_close(ours(x, EDGES, edge_attr), expected, **EXACT)


@pytest.mark.parametrize("layout", ["coo", "csc"])
def test_gradients_reach_the_values_of_a_sparse_matrix(layout: str) -> None:
    """Kept by rows once it is transposed; PyTorch has none of values kept by columns."""
    conv = SE2TransformerConv(8, 4, 2, radial=None, edge_dim=1).double()
    x, weight = randn(4, 8), randn(4).requires_grad_()
    matrix = MAKERS[layout](EDGES, weight.detach(), size=(4, 4)).t()
    matrix = (matrix.coalesce() if layout == "coo" else matrix).requires_grad_()
    conv(x, matrix).square().sum().backward()
    conv(x, EDGES, weight).square().sum().backward()
    grad = matrix.grad.to_dense()[EDGES[1], EDGES[0]]
    torch.testing.assert_close(grad, weight.grad, **EXACT)


def test_a_matrix_with_an_entry_twice_has_an_edge_twice_and_stays_as_it_was() -> None:
    ours, theirs = pair_of(8, 4, 2)
    x = randn(4, 8)
    indices = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 2, 3, 0]])
    matrix = torch.sparse_coo_tensor(indices, torch.ones(5), (4, 4))
    out, (_, alpha) = ours(x, matrix, return_attention_weights=True)
    assert not matrix.is_coalesced() and alpha.shape == (5, 2)
    torch.testing.assert_close(out, theirs(x, indices.flip(0)), **EXACT)


# Graphs that are out of the ordinary.


def test_isolated_nodes_self_loops_and_nodes_beyond_the_edges() -> None:
    ours, theirs = pair_of(8, 4, 2, beta=True)
    x = randn(9, 8)
    for edges in ([[3, 3, 1], [3, 3, 3]], [[], []], [[8], [0]]):
        edge_index = torch.tensor(edges, dtype=torch.long)
        torch.testing.assert_close(ours(x, edge_index), theirs(x, edge_index), **EXACT)
    none = torch.empty(2, 0, dtype=torch.long)
    assert ours(x[:0], none).shape == theirs(x[:0], none).shape == (0, 8)


@pytest.mark.parametrize(("edge_dim", "size"), [(1, 1), (4, 4), (-1, 4), (-1, 1), (0, 0)])
def test_edge_features_of_one_number_several_or_none(edge_dim: int, size: int) -> None:
    """With -1, and in PyG with 0, the first features tell."""
    ours, theirs = pair_of(8, 4, 2, edge_dim=edge_dim)
    x, edge_attr = randn(4, 8), randn(4, size)
    if edge_dim < 1:
        theirs.lin_edge.double()(edge_attr)
        theirs = theirs.double()
        ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x, EDGES, edge_attr), theirs(x, EDGES, edge_attr), **EXACT)
    if size == 1:
        assert torch.equal(ours(x, EDGES, edge_attr[:, 0]), ours(x, EDGES, edge_attr))


def test_a_static_graph_by_a_batch_or_by_vmap() -> None:
    ours, theirs = pair_of(8, 4, 2, edge_dim=3)
    xs, edge_attr = randn(3, 4, 8), randn(4, 3)
    expected = torch.stack([theirs(x, EDGES, edge_attr) for x in xs])
    out = torch.func.vmap(lambda x: ours(x, EDGES, edge_attr))(xs)
    torch.testing.assert_close(out, expected, **EXACT)
    edges = torch.cat([EDGES + 4 * graph for graph in range(3)], dim=1)
    out = ours(xs.flatten(0, 1), edges, edge_attr.repeat(3, 1))
    torch.testing.assert_close(out.view(3, 4, 8), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_layer_of_another_precision(dtype: torch.dtype) -> None:
    ours, theirs = pair_of(8, 4, 2, edge_dim=3)
    x, edge_attr = randn(4, 8), randn(4, 3)
    expected = theirs(x, EDGES, edge_attr)
    out = ours.to(dtype)(x.to(dtype), EDGES, edge_attr)  # edge features follow the layer
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("options", [{}, {"vector_channels": 2, "edge_dim": 3}, {"beta": True}])
@pytest.mark.parametrize("first", [EDGES, EDGES.flip(1), torch.randint(40, (2, 10_001))])
def test_a_traced_layer_is_right_on_other_graphs(options: dict, first: Tensor) -> None:
    """In another order, of another size, larger and smaller than where tables are made."""
    conv = SE2TransformerConv(8, 4, 2, **options).eval()

    def graph(edge_index: Tensor, n: int) -> dict[str, Tensor]:
        made = {"x": torch.randn(n, 8), "edge_index": edge_index, "pos": torch.randn(n, 2)}
        size = options.get("edge_dim", 0)
        return {**made, "edge_attr": torch.randn(edge_index.size(1), size)} if size else made

    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(conv, example_kwarg_inputs=graph(first, 40))
    some = torch.tensor([[0, 1, 2, 5, 3], [5, 0, 5, 1, 1]])
    for edges in (some, some[:, :0], torch.randint(60, (2, 10_500))):
        given = graph(edges, 60)
        torch.testing.assert_close(traced(**given), conv(**given), atol=1e-4, rtol=1e-4)
