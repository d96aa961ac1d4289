"""In training: weights change by whatever means, and what follows is of the new ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn.dense.linear import Linear

if TYPE_CHECKING:
    from tests.nn.modes.conftest import Subject

LAYERS = ["layer", "layer, all", "stack"]
WITH_MAPS = [*LAYERS, "edge_attention", "edge_sum"]
# eps: a gradient that is 0 but for rounding must not become a step of full length.
OPTIMISERS: dict[str, Callable] = {
    "AdamW": partial(torch.optim.AdamW, lr=0.03, eps=1e-3),
    "SGD": partial(torch.optim.SGD, lr=0.3, momentum=0.9),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.03, eps=1e-3),
}
LOOPS: dict[str, dict] = {
    "plain": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


def trained(
    subject: Subject, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Validation after each of two epochs of a step, and the weights at the end."""
    seen: list[Tensor] = []
    for _ in range(2):
        optimizer.zero_grad()
        subject.loss(module.train()).backward()
        optimizer.step()
        with torch.no_grad():
            seen += subject.outputs(module.eval())
    return seen, module.state_dict()


@cache
def expected_of_training(subject: Subject, name: str) -> tuple:
    exact = subject.make(exact=True)
    return trained(subject, exact, OPTIMISERS[name](exact.parameters(), **LOOPS["plain"]))


@pytest.mark.parametrize(("name", "loop"), [*product(OPTIMISERS, LOOPS)])
def test_optimisers(subject: Subject, name: str, loop: str) -> None:
    module = subject.make()
    seen, weights = trained(subject, module, OPTIMISERS[name](module.parameters(), **LOOPS[loop]))
    expected, right = expected_of_training(subject, name)
    close = 1e-5 if subject.tabulated else 1e-12
    subject.assert_close(seen, expected, close)
    # Adagrad's steps are a gradient over its own size, however small: what a table is off, counts.
    subject.assert_close(weights, right, 10 * close if subject.tabulated else close)


def by_data(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data.copy_(state[name])


def by_new_data(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = state[name].clone()


def by_vector(module: nn.Module, state: dict[str, Tensor]) -> None:
    named = [state[name] for name, _ in module.named_parameters()]
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(named), module.parameters())


def by_foreach(module: nn.Module, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(
            [*module.parameters()], [state[name] for name, _ in module.named_parameters()]
        )


def by_optimiser(module: nn.Module, state: dict[str, Tensor]) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, fused=True)
    for name, parameter in module.named_parameters():
        parameter.grad = parameter.detach() - state[name]
    optimizer.step()


CHANGES: dict[str, Callable[[nn.Module, dict[str, Tensor]], Any]] = {
    "load_state_dict": lambda module, state: module.load_state_dict(state),
    "load_state_dict, assign": lambda module, state: module.load_state_dict(state, assign=True),
    "data": by_data,
    "new data": by_new_data,
    "vector_to_parameters": by_vector,
    "foreach": by_foreach,
    "fused optimiser": by_optimiser,
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_changed_after_a_call(subject: Subject, change: str) -> None:
    module, later = subject.make(), subject.make(seed=1)
    subject.loss(module).backward()
    with torch.no_grad():
        subject.outputs(module)
    CHANGES[change](module, {key: value.clone() for key, value in later.state_dict().items()})
    outputs, gradients = subject.expected(1)
    with torch.no_grad():
        subject.assert_outputs(subject.outputs(module), outputs)
    subject.assert_gradients(subject.gradients(module), gradients)


@pytest.mark.filterwarnings("ignore:.*stateless.functional_call:FutureWarning")
@pytest.mark.parametrize(
    "call",
    [torch.func.functional_call, nn.utils.stateless.functional_call],
    ids=["func", "stateless"],
)
def test_weights_given_for_a_call(subject: Subject, call: Callable) -> None:
    module, other = subject.make(), subject.make(seed=1)
    subject.loss(module).backward()
    given = dict(other.named_parameters())
    outputs, gradients = subject.expected(1)

    def called(*inputs: Tensor) -> Any:
        return call(module, given, inputs)

    subject.assert_outputs(subject.outputs(called), outputs)
    subject.assert_gradients(subject.slopes(other, subject.loss(called)), gradients)
    # Its own weights are as they were.
    subject.assert_outputs(subject.outputs(module), subject.expected()[0])


@pytest.mark.parametrize("rule", ["mean", "EMA"])
def test_averaged_weights(subject: Subject, rule: str) -> None:
    options = {} if rule == "mean" else {"multi_avg_fn": get_ema_multi_avg_fn(0.7)}
    module = subject.make()
    averaged = AveragedModel(module, **options)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05, eps=1e-3, fused=True)
    weights = []
    for _ in range(2):
        optimizer.zero_grad()
        subject.loss(module).backward()
        optimizer.step()
        averaged.update_parameters(module)
        weights.append({key: value.clone() for key, value in module.state_dict().items()})
        with torch.no_grad():
            found = subject.outputs(averaged)
    share = 0.5 if rule == "mean" else 0.7  # of the first weights
    exact = subject.make(exact=True)
    exact.load_state_dict(
        {k: share * v + (1 - share) * weights[1][k] for k, v in weights[0].items()}
    )
    with torch.no_grad():
        subject.assert_outputs(found, subject.outputs(exact))


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_activations_in_place(subject: Subject, act: type[nn.Module]) -> None:
    def slopes(module: nn.Module, inplace: bool) -> dict[str, Tensor]:
        first, *_ = subject.outputs(module)
        out = act(inplace=inplace)(first)
        return subject.slopes_of_some(module, out.square().mean())

    exact = subject.make(exact=True)
    subject.assert_gradients(slopes(subject.make(), True), slopes(exact, False))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(subject: Subject, reentrant: bool) -> None:
    module = subject.make()
    x, edge_index, pos = subject.inputs
    x = x.clone().requires_grad_()  # reentrant checkpoints look at inputs alone

    def called(*inputs: Tensor) -> Any:
        return checkpoint(module, *inputs, use_reentrant=reentrant)

    subject.loss(called, (x, edge_index, pos)).backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    subject.assert_gradients(found, subject.expected()[1])


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


def linears(module: nn.Module) -> list[nn.Module]:
    """Every map that has a matrix, of PyTorch, PyG or of the layer itself."""
    return [
        part
        for part in module.modules()
        if getattr(part, "weight", None) is not None and part.weight.dim() > 1
    ]


def pruned(module: nn.Module) -> None:
    for linear in linears(module):
        prune.l1_unstructured(linear, "weight", 0.4)
        with torch.no_grad():  # what an optimiser does; the weight is stale until a call
            linear.weight_orig.mul_(-1.5)


def old_norm(module: nn.Module) -> None:
    for linear in linears(module):
        nn.utils.weight_norm(linear)
        with torch.no_grad():
            linear.weight_g.mul_(1.5)


def new_norm(module: nn.Module) -> None:
    for linear in linears(module):
        nn.utils.parametrizations.weight_norm(linear)
        with torch.no_grad():
            linear.parametrizations.weight.original0.mul_(1.5)


def halved(module: nn.Module) -> None:
    for linear in linears(module):
        parametrize.register_parametrization(linear, "weight", Halved())


def low_rank(module: nn.Module) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    for part in [*module.modules()]:  # peft knows torch's linear maps alone
        for name, child in part.named_children():
            if isinstance(child, Linear):
                plain = nn.Linear(child.in_channels, child.out_channels, child.bias is not None)
                plain.weight, plain.bias = child.weight, child.bias
                setattr(part, name, plain)
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=names, init_lora_weights=False), module)
    module.double()


ALTERATIONS = {
    "prune": pruned,
    "weight_norm, old": old_norm,
    "weight_norm": new_norm,
    "parametrize": halved,
    "LoRA": low_rank,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", WITH_MAPS)
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_maps_that_are_not_plain(subject: Subject, alteration: str) -> None:
    module, exact = subject.make(), subject.make(exact=True)
    before = [part.detach() for part in subject.outputs(module)]
    for one in (module, exact):
        ALTERATIONS[alteration](one)
    found = subject.outputs(module)
    assert (found[0] - before[0]).abs().max() > 1e-3
    # No table of what is not plainly a radial function.
    subject.assert_close(found, subject.outputs(exact), 1e-11)
    subject.assert_close(subject.gradients(module), subject.gradients(exact), 1e-10)


@pytest.mark.filterwarnings("ignore:.*(deprecated|quantization).*")
@pytest.mark.parametrize("kind", LAYERS)
def test_quantised(subject: Subject) -> None:
    module, exact = subject.make(), subject.make(exact=True)
    inputs = (subject.inputs.x.float(), subject.inputs.edge_index, subject.inputs.pos)
    with torch.no_grad():
        plain = subject.outputs(exact.float(), inputs)
        found, expected = (
            subject.outputs(
                torch.ao.quantization.quantize_dynamic(one.float(), {nn.Linear}), inputs
            )
            for one in (module, exact)
        )
    # Rounding to 8 bits may turn over at another number; without it, all is as in the reference.
    subject.assert_close(found, expected, 2e-2 if subject.kind == "stack" else 1e-5)
    assert 0 < (expected[0] - plain[0]).abs().max() < 0.1 * plain[0].abs().max()
