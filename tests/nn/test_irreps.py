from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from e3nn import o3
from e3nn.util.test import assert_equivariant, equivariance_error
from torch import Tensor, nn

from stofm_geo.nn import SE2TransformerConv, from_irreps, irreps, planar_irreps, to_irreps
from tests.nn.helpers import make_conv, make_graph, turn_vectors

CLOSE = {"atol": 1e-10, "rtol": 1e-10}
SHAPES = [(5, 3, 2), (1, 1, 1), (0, 2, 3), (4, 1, 7)]


@pytest.fixture
def double() -> Iterator[None]:
    """E3nn makes its matrices in the default type, whatever type is asked for."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is kept of the calls before, and nothing of those here."""
    irreps._plane.cache_clear()
    yield
    irreps._plane.cache_clear()


def in_plane(angle: float, mirror: bool = False) -> Tensor:
    """The matrix in space that turns (after a mirror in the x axis) the plane of the tissue."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([1, -1 if mirror else 1, 1], dtype=torch.float64))


def random_in_plane(*, mirrors: bool = False) -> Callable[..., Tensor]:
    def rand_matrix(*size: int, dtype: torch.dtype, **_: object) -> Tensor:
        assert not size
        return in_plane(2 * math.pi * torch.rand(()).item(), mirrors).to(dtype)

    return rand_matrix


class OnIrreps(nn.Module):
    """The layer as a function of e3nn's features and of positions in space."""

    def __init__(self, conv: SE2TransformerConv, **graph: Tensor | None) -> None:
        super().__init__()
        self.conv, self.graph = conv, graph

    def forward(self, features: Tensor, pos: Tensor) -> Tensor:
        x, vectors = from_irreps(features, self.conv.irreps_in)
        out = self.conv(**{**self.graph, "x": x, "pos": pos[:, :2], "vectors": vectors})
        return to_irreps(*out) if isinstance(out, tuple) else to_irreps(out)


def arguments(conv: SE2TransformerConv, n: int = 9) -> list[Tensor]:
    torch.manual_seed(2)
    pos = torch.cat([3 * torch.randn(n, 2), torch.zeros(n, 1)], dim=1)
    return [conv.irreps_in.randn(n, -1), pos]


def test_irreps_have_the_parity_of_planar_vectors() -> None:
    assert str(planar_irreps(16, 4, 2)) == "16x0e+4x1o+4x2e"
    assert str(planar_irreps(3, 1, 4)) == "3x0e+1x1o+1x2e+1x3o+1x4e"
    assert str(planar_irreps(3)) == str(planar_irreps(3, 0, 2)) == "3x0e"
    assert str(planar_irreps(0, 2, 1)) == "2x1o"


@pytest.mark.parametrize(("channels", "size", "orders"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(channels: int, size: int, orders: int, dtype: torch.dtype) -> None:
    x = torch.randn(6, channels, dtype=dtype)
    vectors = torch.randn(6, orders, size, 2, dtype=dtype)
    kinds = planar_irreps(channels, size, orders)
    features = to_irreps(x, vectors)
    assert features.shape == (6, kinds.dim) and features.dtype == dtype
    back = from_irreps(features, str(kinds))
    torch.testing.assert_close(back, (x, vectors))
    norm = x.square().sum(1) + vectors.square().sum((1, 2, 3))
    torch.testing.assert_close(features.square().sum(1), norm)


def test_scalars_alone_and_no_nodes() -> None:
    x = torch.randn(6, 5)
    assert to_irreps(x) is x
    back, vectors = from_irreps(x, "5x0e")
    assert torch.equal(back, x) and vectors is None
    x, vectors = from_irreps(
        to_irreps(torch.empty(0, 5), torch.empty(0, 2, 3, 2)), "5x0e+3x1o+3x2e"
    )
    assert x.shape == (0, 5) and vectors.shape == (0, 2, 3, 2)


def test_a_vector_of_order_1_lies_in_the_plane() -> None:
    vectors = torch.tensor([[[[0.3, -0.8]]]])
    features = to_irreps(torch.ones(1, 1), vectors)
    torch.testing.assert_close(features, torch.tensor([[1, 0.3, -0.8, 0]]))


@pytest.mark.parametrize(("channels", "size", "orders"), SHAPES)
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.usefixtures("double")
def test_turned_vectors_are_features_turned_by_e3nn(
    channels: int, size: int, orders: int, mirror: bool
) -> None:
    x = torch.randn(4, channels, dtype=torch.float64)
    vectors = torch.randn(4, orders, size, 2, dtype=torch.float64)
    kinds = planar_irreps(channels, size, orders)
    for angle in (0.0, 0.4, 2.2, math.pi, -1.0):
        matrix = kinds.D_from_matrix(in_plane(angle, mirror))
        turned = to_irreps(x, turn_vectors(vectors, angle, mirror))
        torch.testing.assert_close(turned, to_irreps(x, vectors) @ matrix.t(), **CLOSE)


def test_gradients_after_inference_mode(fresh: None) -> None:
    x, vectors = torch.randn(4, 5).double(), torch.randn(4, 2, 3, 2).double()
    with torch.inference_mode():
        features = to_irreps(x, vectors)
        from_irreps(features, "5x0e+3x1o+3x2e")
    vectors.requires_grad_()
    back = from_irreps(to_irreps(x, vectors), "5x0e+3x1o+3x2e")[1]
    back.square().sum().backward()
    torch.testing.assert_close(vectors.grad, 2 * vectors)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("5x0e+3x1o+2x2e", r"as many vectors of each order .* found 5x0e\+3x1o\+2x2e"),
        ("5x0e+3x2e", r"found 5x0e\+3x2e"),
        ("5x0e+3x1e", r"found 5x0e\+3x1e"),
        ("5x0o", "found 5x0o"),
        ("3x1o+5x0e", r"found 3x1o\+5x0e"),
        ("5x0e+3x1o+3x2e+1x0e", "found"),
        ("9x0e", r"features must be \[N, 9\] for irreps 9x0e; found \[4, 5\]"),
        ("5x0e+1x1o", r"found \[4, 5\]"),
    ],
)
def test_irreps_of_another_kind_are_named(kinds: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_irreps(torch.rand(4, 5), kinds)


def test_features_are_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"found \[4, 5, 1\]"):
        from_irreps(torch.rand(4, 5, 1), "5x0e")


def test_a_layer_tells_its_irreps() -> None:
    options = {"vector_channels": 4, "in_vector_channels": 2, "max_order": 3}
    conv = make_conv(5, 4, 3, out_vectors=True, **options)
    assert conv.irreps_in == o3.Irreps("5x0e+2x1o+2x2e+2x3o")
    assert conv.irreps_out == o3.Irreps("12x0e+12x1o+12x2e+12x3o")
    assert make_conv(concat=False, out_vectors=True, **options).irreps_out[1].mul == 4
    assert make_conv(**options).irreps_out == make_conv().irreps_out == o3.Irreps("12x0e")
    for channels in (-1, (5, 7)):
        with pytest.raises(ValueError, match=r"irreps_in is undefined for in_channels=\(?-?\d"):
            _ = SE2TransformerConv(channels, 4).irreps_in


@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.usefixtures("double")
def test_e3nn_finds_the_layer_equivariant(
    monkeypatch: pytest.MonkeyPatch, options: dict, reflections: bool
) -> None:
    conv = make_conv(**{**options, "reflections": reflections})
    layer = OnIrreps(conv, **make_graph(conv))
    monkeypatch.setattr(o3, "rand_matrix", random_in_plane(mirrors=reflections))
    assert_equivariant(
        layer,
        args_in=arguments(conv),
        irreps_in=[conv.irreps_in, "cartesian_points"],
        irreps_out=[conv.irreps_out],
        tolerance=1e-9,
        ntrials=3,
    )


@pytest.mark.usefixtures("double")
def test_e3nn_finds_that_a_mirror_makes_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = make_conv(vector_channels=4, in_vector_channels=2, out_vectors=True)
    monkeypatch.setattr(o3, "rand_matrix", random_in_plane(mirrors=True))
    errors = equivariance_error(
        OnIrreps(conv, **make_graph(conv)),
        args_in=arguments(conv),
        irreps_in=[conv.irreps_in, "cartesian_points"],
        irreps_out=[conv.irreps_out],
    )
    assert min(error.item() for error in errors.values()) > 1e-3


@pytest.mark.usefixtures("double")
def test_between_linear_layers_of_e3nn_it_stays_equivariant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conv = make_conv(vector_channels=4, in_vector_channels=2, out_vectors=True)
    before = o3.Linear("7x0e+3x1o+1x2e", conv.irreps_in)
    after = o3.Linear(conv.irreps_out, "2x0e+3x1o+5x2e")
    layer = OnIrreps(conv, **make_graph(conv))
    monkeypatch.setattr(o3, "rand_matrix", random_in_plane())
    features = before.irreps_in.randn(9, -1)
    assert_equivariant(
        lambda features, pos: after(layer(before(features), pos)),
        args_in=[features, arguments(conv)[1]],
        irreps_in=[before.irreps_in, "cartesian_points"],
        irreps_out=[after.irreps_out],
        tolerance=1e-9,
        ntrials=3,
    )


@pytest.mark.parametrize("order", range(1, 13))
def test_the_plane_of_an_order_is_orthonormal_and_filled_by_its_waves(order: int) -> None:
    columns = irreps._plane(order)
    assert columns.shape == (2 * order + 1, 2) and columns.dtype == torch.float64
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(columns.t() @ columns, eye, atol=1e-12, rtol=0)
    theta = torch.linspace(-3, 3, 60, dtype=torch.float64)
    flat = torch.stack([theta.cos(), theta.sin(), torch.zeros_like(theta)], dim=1)
    harmonics = o3.spherical_harmonics(order, flat, normalize=False, normalization="norm")
    waves = torch.stack([(order * theta).cos(), (order * theta).sin()], dim=1)
    along = harmonics @ columns
    scale = along[:, :1].norm() / waves[:, :1].norm()
    torch.testing.assert_close(along, scale * waves, atol=1e-12, rtol=0)


def test_the_plane_of_order_1_is_the_plane() -> None:
    columns = irreps._plane(1)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(columns, expected, atol=1e-12, rtol=0)


def test_orders_beyond_those_of_e3nn() -> None:
    vectors = torch.randn(2, 13, 1, 2)
    with pytest.raises(ValueError, match="up to order 12; found 13"):
        to_irreps(torch.randn(2, 3), vectors)
