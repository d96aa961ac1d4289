from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stofm_geo.nn.geometry import EdgeGeometry, circular_harmonics, edge_geometry
from stofm_geo.nn.radial import GaussianRadial
from tests.nn.helpers import attend, leaves_of, make_conv, make_graph


def circle(count: int = 60) -> tuple[Tensor, Tensor]:
    theta = torch.linspace(-3, 3, count, dtype=torch.float64)
    return theta, torch.stack([theta.cos(), theta.sin()], dim=1)


@pytest.mark.parametrize("max_order", [1, 2, 3, 7, 12, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_harmonics_are_sines_and_cosines(max_order: int, dtype: torch.dtype) -> None:
    theta, unit = circle()
    waves = circular_harmonics(unit.to(dtype), max_order)
    assert waves.shape == (60, max_order, 2) and waves.dtype == dtype
    angle = theta[:, None] * torch.arange(1, max_order + 1)
    expected = torch.stack([angle.cos(), angle.sin()], dim=2).to(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(waves, expected, atol=tolerance, rtol=0)


def test_no_direction_has_no_harmonics_and_finite_gradients() -> None:
    unit = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    waves = circular_harmonics(unit, 12)
    assert (waves == 0).all()
    waves.sum().backward()
    assert unit.grad.isfinite().all()
    assert circular_harmonics(torch.empty(0, 2), 3).shape == (0, 3, 2)


def test_gradcheck_of_harmonics() -> None:
    unit = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda unit: circular_harmonics(unit, 4), unit)


def test_lengths_and_directions_are_seen_from_the_destination() -> None:
    source, own = torch.randn(2, 6, 2, dtype=torch.float64)
    own[2] = source[3]
    edge_index = torch.stack([torch.arange(36) // 6, torch.arange(36) % 6])
    length, unit = edge_geometry((source, own), edge_index, torch.float64)
    for e, (j, i) in enumerate(edge_index.t().tolist()):
        delta = (source[j] - own[i]).tolist()
        d = math.hypot(*delta)
        assert length[e].item() == pytest.approx(d, abs=1e-12)
        expected = [part / d if d else 0.0 for part in delta]
        assert unit[e].tolist() == pytest.approx(expected, abs=1e-12)
    assert (length == 0).sum() == 1


def test_gradients_of_lengths_and_directions() -> None:
    torch.manual_seed(0)
    edge_index = torch.tensor([[0, 1, 2, 0, 3], [1, 2, 0, 3, 3]])
    pos = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda pos: edge_geometry((pos, pos), edge_index[:, :4], torch.float64), pos
    )
    same = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    length, unit = edge_geometry((same, same), edge_index, torch.float64)
    assert (length == 0).all() and (unit == 0).all()
    (length.sum() + unit.sum()).backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("nowhere", [(math.nan, math.nan), (math.nan, 1.0), (1.0, math.nan)])
def test_a_node_with_nan_has_no_place(nowhere: tuple[float, float]) -> None:
    pos = torch.tensor([[0.0, 0.0], nowhere, [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    edge_index = torch.tensor([[0, 1, 2, 1], [1, 2, 0, 1]])
    length, unit = edge_geometry((pos, pos), edge_index, torch.float64)
    assert length.tolist() == [0, 0, 5, 0]
    assert (unit[[0, 1, 3]] == 0).all()
    (length.sum() + unit.sum()).backward()
    assert pos.grad.isfinite().all() and (pos.grad[1] == 0).all()


def test_big_offsets_are_taken_off_in_the_precision_of_the_positions() -> None:
    pos = 3 * torch.randn(8, 2, dtype=torch.float64)
    edge_index = torch.randint(8, (2, 30))
    here = edge_geometry((pos, pos), edge_index, torch.float32)
    far = edge_geometry((pos + 1e8, pos + 1e8), edge_index, torch.float32)
    assert far[0].dtype == far[1].dtype == torch.float32
    torch.testing.assert_close(far, here, atol=1e-5, rtol=1e-5)


def test_distances_alone_directions_alone_or_both() -> None:
    torch.manual_seed(0)
    pos = torch.randn(6, 2)
    edge_index = torch.randint(6, (2, 20))
    length, unit = edge_geometry((pos, pos), edge_index, torch.float32)
    expected = circular_harmonics(unit, 2)

    distances = EdgeGeometry(3, GaussianRadial)
    bias, *rest = distances((pos, pos), edge_index, torch.float32)
    torch.testing.assert_close(bias, distances.radial(length))
    assert rest == [None, None]

    directions = EdgeGeometry(3, None, 2)
    bias, weight, harmonics = directions((pos, pos), edge_index, torch.float32)
    assert (bias == 0).all() and bias.shape == (20, 3)
    assert (weight == 1).all() and weight.shape == (20, 2, 3)
    torch.testing.assert_close(harmonics, expected)

    both = EdgeGeometry(3, GaussianRadial, 2)
    bias, weight, harmonics = both((pos, pos), edge_index, torch.float32)
    values = both.radial(length)
    assert values.shape == (20, 9)
    torch.testing.assert_close(bias, values[:, :3])
    torch.testing.assert_close(weight, 1 + values[:, 3:].view(20, 2, 3))
    torch.testing.assert_close(harmonics, expected)


@pytest.mark.parametrize("radial", [GaussianRadial, None])
@pytest.mark.parametrize("max_order", [None, 1, 3])
def test_no_edges(radial: type | None, max_order: int | None) -> None:
    pos = torch.randn(4, 2)
    geometry = EdgeGeometry(3, radial, max_order)
    bias, *rest = geometry((pos, pos), torch.empty(2, 0).long(), torch.float32)
    assert bias.shape == (0, 3)
    if max_order is None:
        assert rest == [None, None]
    else:
        assert [part.shape for part in rest] == [(0, max_order, 3), (0, max_order, 2)]


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_layer_in_single_precision_takes_positions_in_double(
    options: dict, offset: float
) -> None:
    conv = make_conv(dtype=torch.float32, **options)
    graph = make_graph(conv)
    expected = attend(conv, graph)
    result = attend(conv, {**graph, "pos": graph["pos"].double() + offset})
    assert result.x.dtype == torch.float32
    torch.testing.assert_close(result[:4], expected[:4], atol=1e-4, rtol=1e-4)


def test_nodes_at_one_place_have_no_direction() -> None:
    conv = make_conv(vector_channels=3, max_order=3, out_vectors=True)
    graph = make_graph(conv)
    graph["pos"] = torch.tensor([[3.0, -7.0]], dtype=torch.float64).repeat(9, 1)
    leaves = leaves_of(graph)
    result = attend(conv, {**graph, **leaves})
    assert (result.vectors == 0).all()
    (result.x.sum() + result.vectors.sum()).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


def test_positions_of_nan_are_as_one_place(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    nowhere = {**graph, "pos": torch.full_like(graph["pos"], math.nan)}
    one_place = {**graph, "pos": torch.ones_like(graph["pos"])}
    torch.testing.assert_close(attend(conv, nowhere), attend(conv, one_place))


def test_a_node_without_a_place_among_others(options: dict) -> None:
    conv = make_conv(**options)
    graph = make_graph(conv)
    expected = attend(conv, graph)
    graph["pos"][4] = math.nan
    leaves = leaves_of(graph)
    result = attend(conv, {**graph, **leaves})
    touched = (graph["edge_index"] == 4).any(dim=0)
    torch.testing.assert_close(result.pair[~touched], expected.pair[~touched])
    heard = graph["edge_index"][1, touched].unique()
    rest = ~torch.isin(torch.arange(9), heard)
    torch.testing.assert_close(result.x[rest], expected.x[rest])
    parts = [part for part in result if part is not None]
    sum(part.sum() for part in parts).backward()
    grads = [leaf.grad for leaf in leaves.values()] + [p.grad for p in conv.parameters()]
    for tensor in parts + [grad for grad in grads if grad is not None]:
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("pos", "message"),
    [
        (None, "pos is missing"),
        ((torch.rand(9, 2), None), "pos is missing"),
        (torch.rand(9, 3), r"pos must be \[N, 2\] for x .*; found \[\[9, 3\]\]"),
        ((torch.rand(9, 2), torch.rand(9, 3)), r"found \[\[9, 2\], \[9, 3\]\]"),
        (torch.rand(9), r"found \[\[9\]\]"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"radial": None, "vector_channels": 1}])
def test_positions_that_do_not_fit_are_named(
    options: dict, pos: Tensor | None, message: str
) -> None:
    conv = make_conv(dtype=torch.float32, **options)
    with pytest.raises(ValueError, match=message):
        conv(**{**make_graph(conv), "pos": pos})


@pytest.mark.parametrize("edges", [300, 12_000])
def test_under_autocast_it_is_computed_in_single(edges: int) -> None:
    torch.manual_seed(0)
    pos = 5 * torch.randn(40, 2)
    edge_index = torch.randint(40, (2, edges))
    geometry = EdgeGeometry(3, GaussianRadial, 2)
    expected = geometry((pos, pos), edge_index, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = geometry((pos, pos), edge_index, torch.bfloat16)
    assert all(map(torch.equal, found, expected))
