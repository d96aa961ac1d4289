"""Under PyTorch's transforms: compiled, exported, and differentiated in every way there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

if TYPE_CHECKING:
    from tests.nn.modes.conftest import Subject

LAYERS = ["layer", "layer, all", "stack"]
KINDS = [*LAYERS, "edge_attention", "edge_sum", "interpolate"]


def along(subject: Subject, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What comes out, a number a part, as the weights go two ways from where they are."""
    draw = torch.Generator().manual_seed(0)
    named = {name: value.detach() for name, value in module.named_parameters()}
    ways = {
        name: torch.randn(2, *value.shape, generator=draw, dtype=torch.float64)
        for name, value in named.items()
    }

    def function(t: Tensor) -> Tensor:
        given = {
            name: value + 0.1 * (t[0] * ways[name][0] + t[1] * ways[name][1])
            for name, value in named.items()
        }
        parts = subject.outputs(lambda *inputs: functional_call(module, given, inputs))
        return torch.stack([part.sin().mean() for part in parts])

    return function


def start() -> Tensor:
    return torch.zeros(2, dtype=torch.float64)


@cache
def expected(subject: Subject) -> tuple[Tensor, Tensor]:
    """Jacobian, and the Hessian of the sum of the parts, of the reference by autograd."""
    function = along(subject, subject.make(exact=True))
    return (
        torch.autograd.functional.jacobian(function, start()),
        torch.autograd.functional.hessian(lambda t: function(t).sum(), start()),
    )


def by_jvp(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    return torch.stack(
        [torch.func.jvp(function, (t,), (way,))[1] for way in torch.eye(2).double()], 1
    )


def by_vjp(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    value, pull = torch.func.vjp(function, t)
    return torch.stack([pull(way)[0] for way in torch.eye(len(value)).double()])


def by_dual_numbers(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    columns = []
    for way in torch.eye(2).double():
        with forward_ad.dual_level():
            out = function(forward_ad.make_dual(t, way))
            columns.append(forward_ad.unpack_dual(out).tangent)
    return torch.stack(columns, 1)


JACOBIANS: dict[str, Callable[[Callable, Tensor], Tensor]] = {
    "jacrev": lambda function, t: torch.func.jacrev(function)(t),
    "jacfwd": lambda function, t: torch.func.jacfwd(function)(t),
    "jvp": by_jvp,
    "vjp": by_vjp,
    "dual numbers": by_dual_numbers,
}


@pytest.mark.parametrize("jacobian", JACOBIANS)
def test_jacobians(subject: Subject, jacobian: str) -> None:
    found = JACOBIANS[jacobian](along(subject, subject.make()), start())
    # The reference, and exact radial functions, are taken by themselves.
    subject.assert_close([found], [expected(subject)[0]], 1e-12)


@pytest.mark.parametrize("outer", [torch.func.jacfwd, torch.func.jacrev])
def test_hessians(subject: Subject, outer: Callable) -> None:
    function = along(subject, subject.make())
    found = outer(torch.func.jacrev(lambda t: function(t).sum()))(start())
    subject.assert_close([found], [expected(subject)[1]], 1e-11)


def test_grad(subject: Subject) -> None:
    module = subject.make()
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def loss(given: dict[str, Tensor]) -> Tensor:
        return subject.loss(lambda *inputs: functional_call(module, given, inputs))

    subject.assert_close(torch.func.grad(loss)(weights), subject.expected()[1], 1e-11)


def test_vmap_over_an_ensemble(subject: Subject) -> None:
    modules = [subject.make(seed) for seed in (0, 1)]
    weights, buffers = torch.func.stack_module_state(modules)

    def call(given: dict[str, Tensor], held: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return subject.outputs(
            lambda *inputs: functional_call(modules[0], {**given, **held}, inputs)
        )

    with torch.no_grad():
        together = torch.func.vmap(call)(weights, buffers)
    for seed in (0, 1):
        alone = [part[seed] for part in together]
        subject.assert_close(alone, subject.expected(seed)[0], 1e-12)


def test_gradients_of_each_sample(subject: Subject) -> None:
    module, exact = subject.make(), subject.make(exact=True)
    x, edge_index, pos = subject.inputs
    samples = torch.stack([x, x.flip(1)]), torch.stack([pos, pos.flip(0)])
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def loss(given: dict[str, Tensor], x: Tensor, pos: Tensor) -> Tensor:
        return subject.loss(
            lambda *inputs: functional_call(module, given, inputs), (x, edge_index, pos)
        )

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, *samples)
    for i, (one, at) in enumerate(zip(*samples, strict=True)):
        alone = {name: value[i] for name, value in found.items()}
        subject.assert_close(alone, subject.gradients(exact, (one, edge_index, at)), 1e-11)


def test_gradients_of_gradients(subject: Subject) -> None:
    """As in meta-learning; kernels and tables have formulas of their own for them."""
    function = along(subject, subject.make())
    found = torch.autograd.functional.hessian(lambda t: function(t).sum(), start())
    subject.assert_close([found], [expected(subject)[1]], 1e-3 if subject.tabulated else 1e-11)


def forces(subject: Subject, module: nn.Module) -> dict[str, Tensor]:
    """Gradients of a loss of the forces."""
    x, edge_index, pos = subject.inputs
    x, pos = x.clone().requires_grad_(), pos.clone().requires_grad_()
    energy = sum(part.sin().mean() for part in subject.outputs(module, (x, edge_index, pos)))
    of = [given for given in (x, pos) if subject.kind != "interpolate" or given is None]
    if not of:  # interpolate has gradients of its table alone
        of = [*module.parameters()]
    found = torch.autograd.grad(energy, of, create_graph=True)
    scale = 1 / found[0].detach().square().mean().sqrt()
    return subject.slopes_of_some(module, sum((scale * force).square().mean() for force in found))


def test_forces_in_a_loss(subject: Subject) -> None:
    found = forces(subject, subject.make())
    assert found
    subject.assert_close(found, forces(subject, subject.make(exact=True)), 1e-10)


@pytest.mark.parametrize("kind", [*LAYERS, "edge_attention", "edge_sum"])
def test_against_differences(subject: Subject) -> None:
    module = subject.make()
    x, edge_index, pos = subject.inputs
    given = x.clone().requires_grad_(), pos.clone().requires_grad_()

    def function(x: Tensor, pos: Tensor) -> tuple[Tensor, ...]:
        return subject.outputs(module, (x, edge_index, pos))

    # ReLUs of the radial functions change their signs between two numbers now and then.
    limits = {"fast_mode": True, "eps": 1e-7, "atol": 1e-4, "rtol": 1e-3}
    assert torch.autograd.gradcheck(function, given, **limits)
    if subject.edges == 500:  # on more, what differences round away is too much
        assert torch.autograd.gradgradcheck(function, given, **limits)


SLOW = [("layer, all", True), ("stack", True), ("layer", None)]  # seconds to compile


@pytest.fixture
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("kind", "dynamic"),
    [
        *product(("layer", *KINDS[3:]), [True]),
        ("edge_sum", None),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW),
    ],
)
def test_compiled(subjects: list[Subject], dynamic: bool | None) -> None:
    module = subjects[0].make()
    # Not by Inductor, which makes the same graphs fast, in half a minute each.
    compiled = torch.compile(module, dynamic=dynamic, fullgraph=True, backend="aot_eager")
    for i, subject in enumerate(subjects):
        # One program for any size, or a second one when a size is met that is another.
        with torch._dynamo.config.patch(error_on_recompile=i > (0 if dynamic else 1)):
            subject.assert_close(subject.outputs(compiled), subject.expected()[0], 1e-11)
            gradients = subject.slopes(module, subject.loss(compiled))
        subject.assert_close(gradients, subject.expected()[1], 1e-10)


@pytest.mark.slow
def test_exported(subjects: list[Subject]) -> None:
    nodes, edges = torch.export.Dim("N", min=2), torch.export.Dim("E", min=2)
    sizes = ({0: nodes}, {1: edges}, {0: nodes})
    program = torch.export.export(
        subjects[0].make(), tuple(subjects[0].inputs), dynamic_shapes=sizes
    ).module()
    for subject in subjects:
        subject.assert_close(subject.outputs(program), subject.expected()[0], 1e-11)
