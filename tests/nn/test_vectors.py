from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stofm_geo.nn import SE2TransformerConv
from tests.nn.helpers import attend, leaves_of, make_conv, make_graph, move, turn_vectors

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
MOVES = [(0.3, 0.0), (2.0, 10.0), (math.pi, -5.0), (-1.1, 3.0)]
FULL = {"vector_channels": 3, "in_vector_channels": 2, "out_vectors": True}


def slow(conv: SE2TransformerConv, graph: dict, i: int) -> tuple[Tensor, Tensor]:
    """The formulas of the docstrings for one node: its scalars and its vectors."""
    heads, channels, orders, size = (
        conv.heads, conv.out_channels, conv.max_order, conv.vector_channels
    )  # fmt: skip
    x, pos, vectors, parts = graph["x"], graph["pos"], graph["vectors"], conv.vectors
    edge_weight = conv.lin_edge.weight.view(heads, channels, -1)
    factor = parts.lin_direction.weight.view(orders, size, heads, -1)
    constant = parts.lin_direction.bias.view(orders, size, heads)
    carry, seen = (
        linear.weight.view(orders, size, heads, -1)
        for linear in (parts.lin_vector, parts.lin_frame)
    )
    scalars, turning = [], x.new_zeros(orders, size, heads, 2)
    in_frame = x.new_zeros(orders, size, heads, 2)
    for h in range(heads):
        rows = slice(h * channels, (h + 1) * channels)
        q, logits, values, arrows, frames = conv.lin_query(x[i])[rows], [], [], [], []
        for e in (graph["edge_index"][1] == i).nonzero().flatten().tolist():
            j = int(graph["edge_index"][0, e])
            along = edge_weight[h] @ graph["edge_attr"][e]
            dx, dy = (pos[j] - pos[i]).tolist()
            d, theta = math.hypot(dx, dy), math.atan2(dy, dx)
            radial = conv.geometry.radial(torch.tensor([d]).to(x))[0]
            logit = q @ (conv.lin_key(x[j])[rows] + along) / channels**0.5
            logit = logit + radial[h] + graph["pair"][e, h]
            values.append(conv.lin_value(x[j])[rows] + along)
            arrow, frame = x.new_zeros(orders, size, 2), x.new_zeros(orders, size, 2)
            for m in range(1, orders + 1) if d else ():
                w = 1 + radial[m * heads + h]
                wave = x.new_tensor([math.cos(m * theta), math.sin(m * theta)])
                u = factor[m - 1, :, h] @ x[j] + constant[m - 1, :, h]
                arrow[m - 1] = w * u[:, None] * wave
                logit = logit + w * (parts.lin_query.weight[m - 1, h] @ vectors[i, m - 1]) @ wave
                back = torch.stack([wave, wave.flip(0) * wave.new_tensor([-1, 1])])
                frame[m - 1] = w * (seen[m - 1, :, h] @ vectors[j, m - 1]) @ back.t()
            for m in range(orders):
                arrow[m] += carry[m, :, h] @ vectors[j, m]
            arrows.append(arrow)
            frames.append(frame)
            logits.append(logit)
        alpha = torch.stack(logits).softmax(0)
        scalars.append(sum(a * value for a, value in zip(alpha, values, strict=True)))
        turning[:, :, h] = sum(a * arrow for a, arrow in zip(alpha, arrows, strict=True))
        in_frame[:, :, h] = sum(a * frame for a, frame in zip(alpha, frames, strict=True))
    out = torch.cat(scalars) + conv.lin_skip(x[i])
    a = turning.flatten(1, 2) + torch.stack(
        [parts.lin_root.weight[m] @ vectors[i, m] for m in range(orders)]
    )
    lengths = a.norm(dim=2)
    a = a / (lengths.square().mean(dim=1) + 0.01).sqrt()[:, None, None]
    invariants = []
    for m in range(orders):
        one, other = (parts.lin_pair.weight[m] @ a[m]).chunk(2)
        invariants += [lengths[m], (one * other).sum(1)]
        if not parts.reflections:
            invariants.append(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])
        kept = 1 if parts.reflections else 2
        invariants += in_frame[m].flatten(0, 1)[:, :kept].unbind(1)
    out = out + parts.lin_invariant(torch.cat(invariants))
    gate = torch.sigmoid(parts.lin_gate(out)).view(orders, heads * size, 1)
    return out, gate * a


@pytest.mark.parametrize("reflections", [False, True])
def test_one_node_at_a_time_it_is_the_formula(reflections: bool) -> None:
    conv = make_conv(**FULL, edge_dim=2, max_order=3, reflections=reflections)
    graph = make_graph(conv)
    graph["edge_index"][1] = torch.arange(40) % 9
    result = attend(conv, graph)
    for i in range(9):
        out, vectors = slow(conv, graph, i)
        torch.testing.assert_close(result.x[i], out)
        torch.testing.assert_close(result.vectors[i], vectors)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", [1, 3, 8, 16])
@pytest.mark.parametrize("channels", [1, 3, 8, 16])
def test_vectors_turn_with_the_tissue_and_scalars_stay(heads: int, channels: int, dtype) -> None:
    options = {**FULL, "vector_channels": channels, "max_order": 3, "edge_dim": 2}
    conv = make_conv(5, 17 - channels, heads, dtype=dtype, **options)
    graph = make_graph(conv)
    before = attend(conv, graph)
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    for angle, shift in MOVES:
        after = attend(conv, move(graph, angle, shift))
        torch.testing.assert_close(after.x, before.x, **close)
        torch.testing.assert_close(after[2:], before[2:], **close)
        torch.testing.assert_close(after.vectors, turn_vectors(before.vectors, angle), **close)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_so_it_is_with_all_options(options: dict, dtype) -> None:
    conv = make_conv(dtype=dtype, **options)
    graph = make_graph(conv)
    before = attend(conv, graph)
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    for angle, shift in MOVES:
        after = attend(conv, move(graph, angle, shift))
        torch.testing.assert_close(after.x, before.x, **close)
        if before.vectors is not None:
            torch.testing.assert_close(after.vectors, turn_vectors(before.vectors, angle), **close)


@pytest.mark.parametrize("incoming", [0, 2])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_mirror_image_is_another_tissue_unless_reflections(incoming: int, dtype) -> None:
    options = {**FULL, "in_vector_channels": incoming}
    conv = make_conv(dtype=dtype, **options)
    graph = make_graph(conv)
    there, back = attend(conv, graph), attend(conv, move(graph, 0.7, 2.0, mirror=True))
    assert ((there.x - back.x).abs().amax(dim=1) > 1e-3).all()

    conv = make_conv(dtype=dtype, reflections=True, **options)
    there, back = attend(conv, graph), attend(conv, move(graph, 0.7, 2.0, mirror=True))
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(back.x, there.x, **close)
    mirrored = turn_vectors(there.vectors, 0.7, mirror=True)
    torch.testing.assert_close(back.vectors, mirrored, **close)


def test_without_directions_a_mirror_image_is_the_same() -> None:
    conv = make_conv()
    graph = make_graph(conv)
    torch.testing.assert_close(conv(**move(graph, 0.7, mirror=True)), conv(**graph))


def test_directions_count_where_distances_do_not_tell() -> None:
    options = {"x": torch.ones(3, 5).double(), "edge_index": torch.tensor([[1, 2], [0, 0]])}
    straight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]).double()
    bent = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    for conv, same in ((make_conv(), True), (make_conv(vector_channels=2), False)):
        difference = conv(pos=straight, **options)[0] - conv(pos=bent, **options)[0]
        assert (difference.abs().max() < 1e-9) == same


def test_turning_only_the_vectors_is_not_turning_the_tissue() -> None:
    conv = make_conv(**FULL)
    graph = make_graph(conv)
    turned = {**graph, "vectors": turn_vectors(graph["vectors"], 0.7)}
    assert ((attend(conv, graph).x - attend(conv, turned).x).abs().amax(1) > 1e-3).any()


def test_vectors_of_zero_have_finite_gradients() -> None:
    conv = make_conv(**FULL)
    graph = make_graph(conv)
    graph["vectors"] = torch.zeros_like(graph["vectors"])
    graph["pos"] = torch.zeros_like(graph["pos"])
    leaves = leaves_of(graph)
    out, vectors = conv(**{**graph, **leaves})
    assert (vectors == 0).all()
    (out.sum() + vectors.sum()).backward()
    grads = [leaf.grad for leaf in leaves.values()] + [p.grad for p in conv.parameters()]
    assert all(grad.isfinite().all() for grad in grads if grad is not None)


def test_the_gate_lets_through_a_share_of_the_vectors() -> None:
    conv = make_conv(**FULL)
    graph = make_graph(conv)
    gated = attend(conv, graph).vectors
    with torch.no_grad():
        conv.vectors.lin_gate.weight.zero_()
        conv.vectors.lin_gate.bias.fill_(100)
    whole = attend(conv, graph).vectors
    share = gated / whole
    assert (share > 0).all() and (share < 1).all()
    torch.testing.assert_close(share[..., 0], share[..., 1])


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_side_by_side_or_their_mean(heads: int) -> None:
    for concat, size in ((True, heads * 3), (False, 3)):
        conv = make_conv(5, 4, heads, concat=concat, **FULL)
        vectors = conv(**make_graph(conv))[1]
        assert vectors.shape == (9, 2, size, 2)


@pytest.mark.parametrize(
    ("options", "vectors", "message"),
    [
        ({}, torch.rand(9, 2, 2, 2), r"without in_vector_channels; found vectors \[\[9, 2"),
        (FULL, None, r"found \[None\]"),
        (FULL, torch.rand(9, 2, 2), r"= \[N, 2, 2, 2\]; found \[\[9, 2, 2\]\]"),
        (FULL, torch.rand(9, 2, 3, 2), r"vectors must be \[N, max_order, in_vector_channels, 2\]"),
        (FULL, (torch.rand(9, 2, 2, 2), None), r"found \[\[9, 2, 2, 2\], None\]"),
    ],
)
def test_vectors_that_do_not_fit_are_named(
    options: dict, vectors: Tensor | None, message: str
) -> None:
    conv = make_conv(dtype=torch.float32, **options)
    with pytest.raises(ValueError, match=message):
        conv(**{**make_graph(conv), "vectors": vectors})
