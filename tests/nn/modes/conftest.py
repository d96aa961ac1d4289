"""What is tried in every mode, at sizes on both sides of where tables begin, and what is exact."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from stofm_geo.nn import GaussianRadial, SE2Transformer, SE2TransformerConv, geometry
from stofm_geo.ops import edge_attention, edge_sum, interpolate
from stofm_geo.ops.interpolation import _reference

SIZES = (
    500,
    geometry._TABLE_MIN_EDGES - 1,
    geometry._TABLE_MIN_EDGES,
    60_000,
)  # around where tables begin
EXACT = {"tolerance": None, "backend": "reference"}
RADIAL = partial(GaussianRadial, num_gaussians=8)
CHANNELS, HEADS = 6, 2


class Layer(nn.Module):
    """A layer, alone or with all that it can take."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv = SE2TransformerConv(CHANNELS, 4, HEADS, radial=RADIAL, **options)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.conv.edge_dim is None:
            return self.conv(x, edge_index, pos=pos)
        edge_attr = x[edge_index[0], :2] * x[edge_index[1], 2:4]
        vectors = torch.stack([x, x.roll(1, 1)], 1).unflatten(2, (3, 2))
        return self.conv(x, edge_index, edge_attr, pos=pos, vectors=vectors)


class Stack(nn.Module):
    """The SE(2) Transformer with vector channels, all that it returns."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stack = SE2Transformer(
            CHANNELS,
            2,
            HEADS,
            radial=RADIAL,
            vector_channels=2,
            out_vectors=True,
            dropout=0.0,
            **options,
        )

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.stack(x, edge_index, pos))


class Attention(nn.Module):
    """``edge_attention`` of linear maps."""

    def __init__(self, tolerance: float | None = None, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.maps = nn.Linear(CHANNELS, 3 * HEADS * 4)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.maps(x).unflatten(1, (3, HEADS, 4)).unbind(1)
        bias = (pos[edge_index[0]] * pos[edge_index[1]]).sin().to(x.dtype)
        return edge_attention(q, k, v, bias, edge_index, backend=self.backend)


class Sum(nn.Module):
    """``edge_sum`` of linear maps."""

    def __init__(self, tolerance: float | None = None, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.lin_value, self.lin_weight = nn.Linear(CHANNELS, HEADS * 4), nn.Linear(2, HEADS)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        weight = self.lin_weight((pos[edge_index[0]] - pos[edge_index[1]]).to(x.dtype))
        value = self.lin_value(x).unflatten(1, (HEADS, 4))
        return edge_sum(weight, value, edge_index, backend=self.backend)


class Table(nn.Module):
    """``interpolate`` of a table."""

    def __init__(self, tolerance: float | None = None, backend: str = "auto") -> None:
        super().__init__()
        self.function = _reference if backend == "reference" else interpolate
        self.table = nn.Parameter(torch.randn(40, 2, 3))

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        at = (x[edge_index[0], 0] * x[edge_index[1], 1]).detach()
        knots = torch.linspace(-2, 2, 40, dtype=at.dtype, device=at.device)
        return self.function(at, knots, self.table.to(at.dtype))


KINDS: dict[str, Callable[..., nn.Module]] = {
    "layer": Layer,
    "layer, all": partial(
        Layer, edge_dim=2, vector_channels=2, in_vector_channels=3, out_vectors=True
    ),
    "stack": Stack,
    "edge_attention": Attention,
    "edge_sum": Sum,
    "interpolate": Table,
}
LAYERS = ("layer", "layer, all", "stack")


class Inputs(NamedTuple):
    """What each of them takes."""

    x: Tensor
    edge_index: Tensor
    pos: Tensor


@cache
def _inputs(edges: int) -> Inputs:
    draw = torch.Generator().manual_seed(edges)
    n = edges // 25
    x = torch.randn(n, CHANNELS, generator=draw, dtype=torch.float64)
    pos = 8 * torch.rand(n, 2, generator=draw, dtype=torch.float64)
    return Inputs(x, torch.randint(n, (2, edges), generator=draw), pos)


class Subject:
    """Something in every mode: how it is made, what it is given, and what is right.

    Args:
        kind: Of :data:`KINDS`.
        edges: Of the graph it is tried on.
    """

    def __init__(self, kind: str, edges: int) -> None:
        self.kind = kind
        self.edges = edges
        self.inputs = _inputs(edges)
        self.tabulated = kind in LAYERS and edges >= 10_000

    def make(
        self, seed: int = 0, *, exact: bool = False, dtype: torch.dtype = torch.float64
    ) -> nn.Module:
        """Weights drawn from a seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = KINDS[self.kind](**(EXACT if exact else {}))
            if dtype != next(made.parameters()).dtype:
                made = made.to(dtype)
            with torch.no_grad():  # radial functions of some size
                for name, parameter in made.named_parameters():
                    if name.endswith("radial.out.weight"):
                        parameter.mul_(4)
        return made

    def expected(self, seed: int = 0) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Outputs and gradients of the reference, its weights drawn from a seed."""
        return _expected(self, seed)

    def exact(self, module: nn.Module) -> nn.Module:
        """The reference with the weights that ``module`` has now."""
        made = self.make(exact=True)
        made.load_state_dict({key: value.clone() for key, value in module.state_dict().items()})
        return made.train(module.training)

    def outputs(self, module: Callable, inputs: Inputs | None = None) -> tuple[Tensor, ...]:
        """All that comes out, as a tuple."""
        found = module(*(inputs or self.inputs))
        return found if isinstance(found, tuple) else (found,)

    def loss(self, module: Callable, inputs: Inputs | None = None) -> Tensor:
        """One number, of which all parameters have gradients."""
        parts = self.outputs(module, inputs)
        return sum((part * (part.detach() * 1.7).sin()).mean() for part in parts)

    def gradients(self, module: nn.Module, inputs: Inputs | None = None) -> dict[str, Tensor]:
        """Of the loss, by the parameters that have one."""
        return self.slopes(module, self.loss(module, inputs))

    @staticmethod
    def slopes_of_some(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
        """Gradients of ``loss``, by the parameters that have one and that it depends on."""
        named = {key: value for key, value in module.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {key: value for key, value in zip(named, found, strict=True) if value is not None}

    @staticmethod
    def slopes(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
        """Gradients of ``loss``, by the parameters that have one."""
        named = {key: value for key, value in module.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()))
        return dict(zip(named, found, strict=True))

    def assert_right(self, module: nn.Module, *, gradients: bool = True) -> None:
        """Outputs and gradients are those of the reference with the same weights."""
        exact = self.exact(module)
        self.assert_outputs(self.outputs(module), self.outputs(exact))
        if gradients:
            self.assert_gradients(self.gradients(module), self.gradients(exact))

    @staticmethod
    def assert_close(found: Any, expected: Any, close: float, floor: float = 0.0) -> None:
        """Tensors are close, as a share of the largest number of each; a dict's by name.

        None is taken for smaller than ``floor`` times the largest number of all.
        """
        if not isinstance(expected, dict):
            found, expected = (dict(enumerate(values)) for values in (found, expected))
        assert list(found) == list(expected)
        floor *= max(float(value.abs().max()) for value in expected.values())
        for key, value in expected.items():
            assert found[key].shape == value.shape, key
            assert found[key].isfinite().all(), key
            error = (found[key].double() - value.double()).abs().max()
            # 1e-14, since some gradients are 0 but for rounding: a bias of keys changes nothing.
            limit = close * max(float(value.abs().max()), floor) + 1e-14
            assert error <= limit, f"{key}: {error:.1e}, not {limit:.1e}"

    def assert_outputs(self, found: Any, expected: Any) -> None:
        """Radial functions from a table are 1e-5 of their range off, at most; outputs less."""
        self.assert_close(found, expected, 1e-6 if self.tabulated else 1e-12)

    def assert_gradients(self, found: Any, expected: Any) -> None:
        """Gradients of the table are within thousandths; more where they cancel."""
        self.assert_close(found, expected, 2e-3 if self.tabulated else 1e-12, floor=1e-3)


@cache
def _expected(subject: Subject, seed: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    exact = subject.make(seed, exact=True)
    with torch.no_grad():
        outputs = subject.outputs(exact)
    with torch.enable_grad():
        return outputs, subject.gradients(exact)


# Two of them take most of the time: they are tried by `pytest -m slow`, as CI does.
_SLOW = [pytest.param(edges, marks=pytest.mark.slow) for edges in (SIZES[1], SIZES[3])]


@pytest.fixture(params=[SIZES[0], SIZES[2], *_SLOW])
def edges(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def subject(kind: str, edges: int) -> Subject:
    return _subject(kind, edges)


@pytest.fixture
def subjects(kind: str) -> list[Subject]:
    """One kind at all sizes."""
    return [_subject(kind, edges) for edges in SIZES]


_subject = cache(Subject)  # and what is right of each is computed once
