from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from stofm_geo.nn import GaussianRadial, SE2Transformer, SoftOneHotRadial
from stofm_geo.nn.transformer import SE2Output
from stofm_geo.nn.vectors import VectorChannels
from stofm_geo.ops import EdgeGraph, edge_attention
from tests.nn.helpers import turn_vectors

OPTIONS: dict[str, dict] = {
    "pre": {},
    "post": {"norm": "post"},
    "pre, vectors": {"vector_channels": 6},
    "post, vectors": {"vector_channels": 6, "norm": "post", "max_order": 3},
    "vectors, reflections": {"vector_channels": 6, "reflections": True},
    "vectors, no radial": {"vector_channels": 3, "radial": None, "max_order": 1},
}


def make(dtype: torch.dtype = torch.float64, **options: object) -> SE2Transformer:
    torch.manual_seed(0)
    radial = options.pop("radial", partial(GaussianRadial, num_gaussians=8))
    options.setdefault("out_vectors", bool(options.get("vector_channels")))
    return SE2Transformer(12, 3, 3, radial=radial, **options).to(dtype).eval()


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> dict:
    return dict(OPTIONS[request.param])


@pytest.fixture
def model(options: dict) -> SE2Transformer:
    return make(**options)


def graph(n: int = 15, edges: int = 60, seed: int = 0, dtype: torch.dtype = torch.float64) -> Data:
    draw = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n, 12, generator=draw, dtype=torch.float64).to(dtype),
        pos=5 * torch.randn(n, 2, generator=draw, dtype=torch.float64).to(dtype),
        edge_index=torch.randint(max(n, 1), (2, edges), generator=draw),
    )


def run(model: SE2Transformer, data: Data) -> SE2Output:
    return model(data.x, data.edge_index, data.pos)


def some(result: SE2Output) -> list[Tensor]:
    return [part for part in result if part is not None]


def moved(data: Data, angle: float, shift: float, mirror: bool = False) -> Data:
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=data.pos.dtype)
    flip = torch.tensor([1.0, -1.0 if mirror else 1.0], dtype=data.pos.dtype)
    return Data(x=data.x, edge_index=data.edge_index, pos=(data.pos * flip) @ turn + shift)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_turning_and_shifting_turns_the_vectors_and_nothing_else(
    options: dict, dtype: torch.dtype, close: float
) -> None:
    model, data = make(dtype, **options), graph(dtype=dtype)
    before = run(model, data)
    for angle, shift in [(0.3, 0.0), (2.0, 20.0), (math.pi, -5.0)]:
        after = run(model, moved(data, angle, shift))
        torch.testing.assert_close(after.x, before.x, atol=close, rtol=close)
        torch.testing.assert_close(after.pair, before.pair, atol=close, rtol=close)
        if before.vectors is not None:
            turned = turn_vectors(before.vectors, angle)
            torch.testing.assert_close(after.vectors, turned, atol=close, rtol=close)
    data.pos = data.pos * torch.tensor([2.0, 1.0])
    assert (run(model, data).x - before.x).abs().max() > 1e-4


def test_a_mirror_image_is_the_same_without_directions_or_with_reflections(
    model: SE2Transformer, options: dict
) -> None:
    data = graph()
    before, after = run(model, data), run(model, moved(data, 0.7, 2.0, mirror=True))
    if options.get("vector_channels") and not options.get("reflections"):
        assert ((after.x - before.x).abs().amax(dim=1) > 1e-5).all()
        return
    torch.testing.assert_close(after.x, before.x, atol=1e-10, rtol=1e-10)
    if before.vectors is not None:
        mirrored = turn_vectors(before.vectors, 0.7, mirror=True)
        torch.testing.assert_close(after.vectors, mirrored, atol=1e-10, rtol=1e-10)


def test_what_comes_out_has_names(model: SE2Transformer, options: dict) -> None:
    result = run(model, graph())
    assert isinstance(result, SE2Output) and result._fields == ("x", "vectors", "pair")
    assert result.x.shape == (15, 12) and result.pair.shape == (60, 3)
    if vector_channels := options.get("vector_channels"):
        assert result.vectors.shape == (15, options.get("max_order", 2), vector_channels, 2)
        assert result.vectors.shape[1:] == model.vector_shape
    else:
        assert result.vectors is model.vector_shape is None


def test_numbering_and_order_do_not_matter(model: SE2Transformer) -> None:
    data = graph()
    before = run(model, data)
    node, edge = torch.randperm(15), torch.randperm(60)
    again = Data(
        x=data.x[node], pos=data.pos[node], edge_index=node.argsort()[data.edge_index][:, edge]
    )
    after = run(model, again)
    torch.testing.assert_close((after.x, after.pair), (before.x[node], before.pair[edge]))
    if before.vectors is not None:
        torch.testing.assert_close(after.vectors, before.vectors[node])


def test_a_batch_is_its_graphs_one_by_one(model: SE2Transformer) -> None:
    graphs = [graph(15, 60, 0), graph(4, 5, 1), graph(1, 0, 2), graph(9, 50, 3)]
    together = run(model, Batch.from_data_list(graphs))
    alone = [some(run(model, one)) for one in graphs]
    for whole, parts in zip(some(together), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts))


def direction_logits(model: SE2Transformer, monkeypatch) -> list[Tensor]:
    """Logits of directions, of all blocks but the first, once the model has run."""
    found: list[Tensor] = []
    compute = VectorChannels.logits

    def recorded(*args: Any) -> Tensor:
        found.append(compute(*args))
        return found[-1]

    monkeypatch.setattr(VectorChannels, "logits", recorded)
    return found


def test_the_pair_state_is_the_biases_and_the_products_of_all_layers(
    model: SE2Transformer, options: dict, monkeypatch
) -> None:
    """``A_l = B_0 + sum_m q_m k_m``, an identity of the published model."""
    data = graph()
    src, dst = data.edge_index
    distance = (data.pos[src] - data.pos[dst]).norm(dim=1)
    seen: dict[str, list[Tensor]] = {"lin_query": [], "lin_key": []}
    hooks = [
        getattr(block.attention, name).register_forward_hook(
            lambda *call, calls=calls: calls.append(call[2].view(15, 3, 4))
        )
        for block in model.blocks
        for name, calls in seen.items()
    ]
    of_directions = direction_logits(model, monkeypatch)
    pair = run(model, data).pair
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(60, 3, dtype=torch.float64)
    # The blocks have the edges sorted by destination.
    expected[dst.sort(stable=True).indices] = sum(of_directions, start=expected.clone())
    assert len(of_directions) == (2 if "vector_channels" in options else 0)
    radials = [getattr(block.attention.geometry, "radial", None) for block in model.blocks]
    for q, k, radial in zip(seen["lin_query"], seen["lin_key"], radials, strict=True):
        expected = expected + (q[dst] * k[src]).sum(-1) / 2
        if radial is not None:
            expected = expected + radial(distance)[:, :3]
    torch.testing.assert_close(pair, expected)
    if "vector_channels" not in options:
        assert radials[0] is not None and radials[1:] == [None, None]


def test_attention_is_what_the_reference_weighs_values_by(
    model: SE2Transformer, monkeypatch
) -> None:
    data = graph()
    of_directions = direction_logits(model, monkeypatch)
    dst = data.edge_index[1]
    seen: dict[str, list[Tensor]] = {"lin_query": [], "lin_key": [], "lin_value": []}
    for block in model.blocks:
        for name, calls in seen.items():
            getattr(block.attention, name).register_forward_hook(
                lambda *call, calls=calls: calls.append(call[2].view(15, 3, 4))
            )
    weights = model.attention(data.x, data.edge_index, data.pos)
    assert weights.shape == (3, 60, 3)
    pair = torch.zeros(60, 3, dtype=torch.float64)
    later = iter(of_directions)
    for alpha, q, k, v, block in zip(weights, *seen.values(), model.blocks, strict=True):
        if block.attention.geometry is not None:
            pair = (
                pair + block.attention.geometry((data.pos, data.pos), data.edge_index, q.dtype)[0]
            )
        if of_directions and block is not model.blocks[0]:
            pair = pair + next(later)
        out, pair, lse = edge_attention(q, k, v, pair, data.edge_index, backend="reference")
        torch.testing.assert_close(alpha, (pair - lse[dst]).exp())
        messages = alpha[..., None] * v[data.edge_index[0]]
        torch.testing.assert_close(torch.zeros_like(v).index_add(0, dst, messages), out)


def test_vectors_add_up_and_go_into_a_layer_at_most_of_size_1() -> None:
    model = make(vector_channels=6)
    calls: list[tuple[Tensor, Tensor]] = []
    for block in model.blocks:
        block.attention.register_forward_hook(
            lambda _, args, given, out: calls.append((given["vectors"], out[1])), with_kwargs=True
        )
    result = run(model, graph())
    assert calls[0][0] is None
    total = calls[0][1]
    for given, made in calls[1:]:
        size = (1 + total.square().sum(-1).mean(2)).sqrt()[:, :, None, None]
        torch.testing.assert_close(given, total / size)
        assert size.max() > 1.1 and given.square().sum(-1).mean(2).max() <= 1
        total = total + made
    torch.testing.assert_close(result.vectors, total)


def test_a_node_hears_only_of_those_within_as_many_steps_as_layers(model: SE2Transformer) -> None:
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])
    x = torch.randn(10, 12, dtype=torch.float64)
    pos = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1).double()
    before = model(x, chain, pos).x
    x[0] += torch.randn(12)
    moved = (model(x, chain, pos).x != before).any(dim=1)
    assert moved.tolist() == [True] * 4 + [False] * 6


def test_gradients_reach_every_parameter_and_all_inputs(model: SE2Transformer) -> None:
    data = graph()
    data.x.requires_grad_(), data.pos.requires_grad_()
    # The keys' bias shifts all logits of a node alike, which only the pair state sees.
    sum(part.sin().sum() for part in some(run(model, data))).backward()
    named = [*model.named_parameters(), ("x", data.x), ("pos", data.pos)]
    for name, parameter in named:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradcheck(model: SE2Transformer) -> None:
    data = graph(4, 7)
    leaves = (data.x.requires_grad_(), data.pos.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, pos: tuple(some(model(x, data.edge_index, pos))), leaves, fast_mode=True
    )


@pytest.mark.parametrize(("n", "edges"), [(0, 0), (1, 0), (3, 0), (2, 1), (1, 1)])
def test_graphs_with_little_in_them(model: SE2Transformer, n: int, edges: int) -> None:
    result = run(model, graph(n, edges))
    assert result.x.shape == (n, 12) and result.pair.shape == (edges, 3)
    assert all(part.isfinite().all() for part in some(result))


def test_nodes_without_a_place_and_at_one_place(model: SE2Transformer) -> None:
    data = graph()
    data.pos[3] = math.nan
    data.pos[4:9] = 1.0
    data.pos.requires_grad_()
    result = run(model, data)
    sum(part.square().sum() for part in some(result)).backward()
    grads = [data.pos.grad, *(p.grad for p in model.parameters())]
    assert all(part.isfinite().all() for part in (*some(result), *grads))
    data.pos = torch.full((15, 2), math.nan, dtype=torch.float64)
    nowhere = run(model, data)
    data.pos = torch.ones(15, 2, dtype=torch.float64)
    torch.testing.assert_close(nowhere, run(model, data))
    assert nowhere.vectors is None or (nowhere.vectors == 0).all()


def test_positions_in_double_far_from_the_origin(options: dict) -> None:
    model, data = make(torch.float32, **options), graph(dtype=torch.float32)
    expected = run(model, data)
    data.pos = data.pos.double() + 1e8
    torch.testing.assert_close(run(model, data), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vector_channels", [0, 6])
def test_edges_beyond_a_cutoff_are_as_none_in_all_layers(vector_channels: int) -> None:
    radial = partial(SoftOneHotRadial, cutoff=6.0)
    model, data = make(radial=radial, vector_channels=vector_channels), graph()
    src, dst = data.edge_index
    near = (data.pos[src] - data.pos[dst]).norm(dim=1) < 6
    result = run(model, data)
    data.edge_index = data.edge_index[:, near]
    fewer = run(model, data)
    assert 10 < near.sum() < 50
    torch.testing.assert_close(result[:2], fewer[:2])
    torch.testing.assert_close(result.pair[near], fewer.pair)
    result.x.square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


def test_reset_draws_every_parameter_anew(model: SE2Transformer) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.reset_parameters()
    assert not any((parameter == 7).any() for parameter in model.parameters())
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model.reset_parameters()
        drawn.append([p.clone() for p in model.parameters()])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not all(map(torch.equal, drawn[0], drawn[2]))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropout_only_in_training(norm: str) -> None:
    model, data = make(norm=norm, dropout=0.5), graph()
    assert torch.equal(run(model, data).x, run(model, data).x)
    for part in ("lin_out", "feed_forward"):  # each of the two sub-blocks alone
        model = make(norm=norm, dropout=0.5).train()
        for block in model.blocks:
            torch.nn.init.zeros_(list(getattr(block, part).parameters())[-2])
            torch.nn.init.zeros_(list(getattr(block, part).parameters())[-1])
        assert not torch.equal(run(model, data).x, run(model, data).x)
    quiet = make(norm=norm, dropout=0.0).train()
    assert torch.equal(run(quiet, data).x, run(make(norm=norm), data).x)


def test_normalised_before_or_after() -> None:
    for norm in ("pre", "post"):
        x = run(make(norm=norm), graph()).x
        torch.testing.assert_close(x.mean(1), torch.zeros(15).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            x.var(1, correction=0), torch.ones(15).double(), atol=1e-3, rtol=0
        )
    # Before: what comes in goes out again, beside what the blocks add.
    model = make().double()
    with torch.no_grad():
        for block in model.blocks:
            for linear in (block.lin_out, block.feed_forward[-1]):
                linear.weight.zero_(), linear.bias.zero_()
    data = graph()
    torch.testing.assert_close(run(model, data).x, model.norm(data.x))


def test_repr() -> None:
    assert repr(make()) == "SE2Transformer(12, num_layers=3, heads=3)"
    vectors = "SE2Transformer(12, num_layers=3, heads=3, vector_channels=6)"
    assert repr(make(vector_channels=6)) == vectors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 10, "heads": 4}, "channels=10 must be a multiple of heads=4"),
        ({"vector_channels": 4, "heads": 3}, "vector_channels=4 must be a multiple of heads=3"),
        ({"norm": "Pre"}, "norm must be 'pre' or 'post'; found 'Pre'"),
        ({"norm": None}, "norm must be 'pre' or 'post'; found None"),
        ({"heads": 0}, "heads must be 1 or more; found 0"),
        ({"out_vectors": True}, "out_vectors needs vector_channels of 1 or more"),
        ({"vector_channels": -3, "heads": 3}, "vector_channels must be 0 or more; found -3"),
        ({"channels": 0}, "channels must be 1 or more; found 0"),
        (
            {"vector_channels": 3, "heads": 3, "max_order": 0},
            "max_order must be 1 or more; found 0",
        ),
    ],
)
def test_what_cannot_be_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SE2Transformer(**{"channels": 12, "heads": 4, **options})


def test_all_forms_of_edges_give_the_same() -> None:
    data, model = graph(), make(vector_channels=6, dropout=0.0)
    n, edge_index = data.num_nodes, data.edge_index
    expected, weights = run(model, data), model.attention(data.x, edge_index, data.pos)
    given = EdgeGraph(edge_index, n)
    for edges in (given, EdgeIndex(edge_index, sparse_size=(n, n)), edge_index.int()):
        found = model(data.x, edges, data.pos)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) if one is not None else other is None
        assert torch.equal(model.attention(data.x, edges, data.pos), weights)
    edges = edge_index.unique(dim=1)
    adjacency = torch.sparse_coo_tensor(edges.flip(0), torch.ones(edges.size(1)), (n, n))
    expected = model(data.x, edges, data.pos)
    torch.testing.assert_close(model(data.x, adjacency.coalesce(), data.pos).x, expected.x)
    with pytest.raises(ValueError, match=rf"= \({n}, {n}\), and x has \(4, 4\)"):
        model(data.x[:4], given, data.pos[:4])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_vectors_that_nobody_asked_for_are_not_made(norm: str) -> None:
    data = graph()
    model, asked = (make(vector_channels=6, norm=norm, out_vectors=out) for out in (False, True))
    missing = asked.load_state_dict(model.state_dict(), strict=False).missing_keys
    gate = "blocks.2.attention.vectors.lin_gate"
    assert missing == [f"{gate}.weight", f"{gate}.bias"]
    found, expected = run(model, data), run(asked, data)
    assert found.vectors is None and expected.vectors is not None
    assert torch.equal(found.x, expected.x) and torch.equal(found.pair, expected.pair)
    found.x.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
