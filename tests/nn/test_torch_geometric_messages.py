"""The situations of PyG's tests of ``MessagePassing``: hooks, explanations and subclasses."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing, TransformerConv
from torch_geometric.utils import scatter, softmax, to_torch_csc_tensor

from stofm_geo.nn import SE2TransformerConv
from tests.nn.helpers import attend, make_conv, make_graph

OURS = partial(SE2TransformerConv, radial=None)
EDGES = torch.tensor([[0, 1, 2, 3, 3], [0, 0, 1, 1, 0]])
CALLED = ("propagate", "message", "aggregate")
EXACT = {"atol": 1e-10, "rtol": 1e-10}


@pytest.fixture
def conv() -> SE2TransformerConv:
    torch.manual_seed(0)
    return OURS(8, 4, 2, root_weight=False).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def count(conv: MessagePassing) -> tuple[Counter, list]:
    """Hooks of all kinds, that count their calls and change nothing, and their handles."""
    calls: Counter = Counter()
    handles = []
    for kind in (*CALLED, "message_and_aggregate", "edge_update"):
        for when in ("_pre", ""):

            def hook(module: MessagePassing, *args, name: str = kind + when) -> object:
                assert module is conv
                calls[name] += 1
                return args[-1]

            handles.append(getattr(conv, f"register_{kind}_forward{when}_hook")(hook))
    return calls, handles


@pytest.mark.parametrize("form", ["edges", "EdgeIndex", "matrix"])
def test_hooks_are_called_once_each_and_no_more_once_removed(conv, x, form: str) -> None:
    edges = EDGES[:, EDGES[1].argsort(stable=True)]
    given = {
        "edges": edges,
        "EdgeIndex": EdgeIndex(edges, sparse_size=(4, 4), sort_order="col"),
        "matrix": to_torch_csc_tensor(edges, size=(4, 4)).t(),
    }[form]
    expected = conv(x, given)
    calls, handles = count(conv)
    torch.testing.assert_close(conv(x, given), expected, **EXACT)
    assert calls == {kind + when: 1 for kind in CALLED for when in ("_pre", "")}
    for handle in handles:
        handle.remove()
    assert torch.equal(conv(x, given), expected)
    assert sum(calls.values()) == 6


def twice(inputs: tuple, name: str) -> tuple:
    return (*inputs[:-1], {**inputs[-1], name: 2 * inputs[-1][name]})


def to_node_2(inputs: tuple) -> tuple:
    return (*inputs[:-1], {**inputs[-1], "index": torch.full_like(inputs[-1]["index"], 2)})


@pytest.mark.parametrize(
    ("kind", "hook", "expected"),
    [
        ("propagate_forward_pre", lambda m, i: twice(i, "value"), lambda out: 2 * out),
        ("propagate_forward", lambda m, i, out: out + 1, lambda out: out + 1),
        ("message_forward_pre", lambda m, i: twice(i, "alpha"), lambda out: 2 * out),
        ("message_forward_pre", lambda m, i: twice(i, "value_j"), lambda out: 2 * out),
        (
            "message_forward",
            lambda m, i, out: out + 1,  # as often as a node has edges
            lambda out: out + torch.tensor([[3], [2], [0], [0]]),
        ),
        (
            "aggregate_forward_pre",
            lambda m, i: to_node_2(i),
            lambda out: torch.eye(4, dtype=out.dtype)[:, 2:3] * out.sum(dim=0),
        ),
        ("aggregate_forward", lambda m, i, out: -out, lambda out: -out),
    ],
)
def test_hooks_change_what_they_return(conv, x, kind: str, hook, expected) -> None:
    out = conv(x, EDGES)
    handle = getattr(conv, f"register_{kind}_hook")(hook)
    torch.testing.assert_close(conv(x, EDGES), expected(out), **EXACT)
    handle.remove()
    assert torch.equal(conv(x, EDGES), out)


def test_a_hook_sees_what_transformer_convs_does(conv, x) -> None:
    """Values, their weights, and the result of each edge."""
    seen = {}

    def hook(module: MessagePassing, inputs: tuple, output: Tensor) -> None:
        seen[type(module)] = (inputs[-1]["value_j"], output)

    theirs = TransformerConv(8, 4, 2, root_weight=False).double()
    theirs.load_state_dict(conv.state_dict())
    for layer in (conv, theirs):
        layer.register_message_forward_hook(hook)
        layer(x, EDGES)
    torch.testing.assert_close(seen[SE2TransformerConv], seen[TransformerConv], **EXACT)


# Explanations.


def explain(conv: MessagePassing, mask: Tensor | None) -> MessagePassing:
    conv.explain, conv._edge_mask, conv._apply_sigmoid = mask is not None, mask, False
    return conv


def test_an_explanation_needs_a_mask(conv, x) -> None:
    conv.explain = True
    with pytest.raises(ValueError, match="pre-defined 'edge_mask'"):
        conv(x, EDGES)


def test_a_mask_weighs_messages_and_is_gone_after(options) -> None:
    """With none of them left it is a graph without edges; weights and logits are as ever."""
    conv = make_conv(**options)
    graph = make_graph(conv)
    expected = attend(conv, graph)
    ones = torch.ones(40, dtype=torch.float64)
    torch.testing.assert_close(attend(explain(conv, ones), graph)[:3], expected[:3])
    masked = attend(explain(conv, 0 * ones), graph)
    torch.testing.assert_close(masked[2:], expected[2:])
    none = {**graph, "edge_index": graph["edge_index"][:, :0]}
    for key in ("edge_attr", "pair"):
        none[key] = None if graph[key] is None else graph[key][:0]
    torch.testing.assert_close(masked[:2], attend(explain(conv, None), none)[:2])
    assert all(map(torch.equal, attend(conv, graph)[2:], expected[2:]))


def test_a_mask_weighs_each_message_by_its_own(conv, x) -> None:
    mask = torch.rand(5, dtype=torch.float64)
    _, (_, alpha) = conv(x, EDGES, return_attention_weights=True)
    value = conv.lin_value(x).view(4, 2, 4)[EDGES[0]]
    expected = scatter((mask[:, None] * alpha)[..., None] * value, EDGES[1], 0, 4).flatten(1)
    torch.testing.assert_close(explain(conv, mask)(x, EDGES), expected, **EXACT)
    conv._apply_sigmoid, conv._edge_mask = True, mask.logit()
    torch.testing.assert_close(conv(x, EDGES), expected, **EXACT)


def test_explain_message_of_a_layers_own(conv, x) -> None:
    seen = []

    def explain_message(self: MessagePassing, inputs: Tensor, value_i: Tensor, key_j: Tensor):
        seen.append((self, value_i, key_j))
        return 3 * inputs

    expected = 3 * conv(x, EDGES)
    conv.explain_message = explain_message.__get__(conv, MessagePassing)
    conv.explain = True
    torch.testing.assert_close(conv(x, EDGES), expected, **EXACT)
    ((layer, value_i, key_j),) = seen
    assert layer is conv
    assert torch.equal(value_i, conv.lin_value(x).view(4, 2, 4)[EDGES[1]])
    assert torch.equal(key_j, conv.lin_key(x).view(4, 2, 4)[EDGES[0]])


def test_a_layer_that_was_explained_can_be_copied(conv, x) -> None:
    expected = conv(x, EDGES)
    explain(conv, torch.zeros(5, dtype=torch.float64))(x, EDGES)
    assert not copy.deepcopy(conv)(x, EDGES).any()
    explain(conv, None)
    for again in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(again(x, EDGES), expected)


# Subclasses.


class Plain(SE2TransformerConv):
    """Nothing of its own."""


class Scaled(SE2TransformerConv):
    def message(self, value_j: Tensor, alpha: Tensor, factor: float = 2.0) -> Tensor:
        return factor * alpha[..., None] * value_j


class OfScaled(Scaled):
    """As its base."""


class ByOwnLogits(SE2TransformerConv):
    """As PyG's layer has it: from queries and keys."""

    def message(self, query_i, key_j, value_j, index, ptr, size_i) -> Tensor:  # type: ignore[no-untyped-def]
        logits = (query_i * key_j).sum(-1) / query_i.size(-1) ** 0.5
        return softmax(logits, index, ptr, size_i)[..., None] * value_j


class Summed(SE2TransformerConv):
    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        return 3 * scatter(inputs, index, dim=0, dim_size=dim_size)


class Updated(SE2TransformerConv):
    def update(self, inputs: Tensor, query: Tensor) -> Tensor:
        return inputs + query


class Propagated(SE2TransformerConv):
    def propagate(self, edge_index, size=None, **kwargs) -> Tensor:  # type: ignore[no-untyped-def]
        return -super().propagate(edge_index, size=size, **kwargs)


class Negative:
    def update(self, inputs: Tensor) -> Tensor:
        return -inputs


class Mixed(Negative, Plain):
    """By a class that is no layer."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Plain, lambda out, query: out),
        (Scaled, lambda out, query: 2 * out),
        (OfScaled, lambda out, query: 2 * out),
        (ByOwnLogits, lambda out, query: out),
        (Summed, lambda out, query: 3 * out),
        (Updated, lambda out, query: out + query),
        (Propagated, lambda out, query: -out),
        (Mixed, lambda out, query: -out),
    ],
)
def test_methods_of_a_subclass_are_called(conv, x, kind: type, expected) -> None:
    for _ in range(2):  # PyG rewrites a class when its first layer is made
        other = kind(8, 4, 2, radial=None, root_weight=False).double()
        other.load_state_dict(conv.state_dict())
        wanted = expected(conv(x, EDGES), conv.lin_query(x))
        torch.testing.assert_close(other(x, EDGES), wanted, **EXACT)
        two = ((x, x[:2]), EDGES)
        wanted = expected(conv(*two), conv.lin_query(x[:2]))
        torch.testing.assert_close(other(*two), wanted, **EXACT)
        again = pickle.loads(pickle.dumps(other))
        assert torch.equal(again(x, EDGES), other(x, EDGES))
        root = other(x, EDGES[:, :0])
        masked = explain(other, torch.zeros(5, dtype=torch.float64))(x, EDGES)
        torch.testing.assert_close(masked, root, **EXACT)
    assert repr(other) == f"{kind.__name__}(8, 4, heads=2)"


def test_a_plain_subclass_makes_no_messages(x, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("messages were made")

    monkeypatch.setattr(MessagePassing, "propagate", refuse)
    conv = Plain(8, 4, 2, radial=None).double()
    assert conv(x, EDGES).shape == (4, 8)
    conv.fuse = False
    with pytest.raises(AssertionError, match="messages were made"):
        conv(x, EDGES)


def test_a_method_of_one_layer_is_called(conv, x) -> None:
    out = conv(x, EDGES)
    other = copy.deepcopy(conv)
    conv.message = lambda value_j, alpha, **rest: 5 * alpha[..., None] * value_j
    torch.testing.assert_close(conv(x, EDGES), 5 * out, **EXACT)
    assert torch.equal(other(x, EDGES), out)


def test_a_method_that_takes_what_there_is_not_is_named() -> None:
    class Wrong(SE2TransformerConv):
        def message(self, x_j: Tensor) -> Tensor:
            return x_j

    with pytest.raises(TypeError, match="message takes x_j, which this layer does not provide"):
        Wrong(8, 4)


def test_messages_of_another_shape_are_named(x) -> None:
    conv = Scaled(8, 4, 2, radial=None, edge_dim=3).double()
    with pytest.raises(ValueError, match=r"\[E, 2, 7\].*: \[4, 0, 0, 3\].*add up to \[4, 2, 4\]"):
        conv(x, EDGES, torch.zeros(5, 3, dtype=torch.float64))
