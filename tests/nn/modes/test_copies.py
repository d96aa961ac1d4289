"""Made, copied, kept and called in other ways than plainly."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch_geometric.nn.inits import reset

if TYPE_CHECKING:
    from tests.nn.modes.conftest import Subject

LAYERS = ["layer", "layer, all", "stack"]


def by_torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": by_torch_save,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies(subject: Subject, way: str) -> None:
    module = subject.make()
    size = len(pickle.dumps(module))
    found = subject.outputs(module)
    assert len(pickle.dumps(module)) == size
    copied = COPIES[way](module)
    assert all(map(torch.equal, subject.outputs(copied), found))
    subject.assert_gradients(subject.gradients(copied), subject.expected()[1])
    # Neither knows of the other.
    copied.load_state_dict(subject.make(seed=1).state_dict())
    with torch.no_grad():
        subject.assert_outputs(subject.outputs(copied), subject.expected(1)[0])
        assert all(map(torch.equal, subject.outputs(module), found))


def test_made_in_inference_mode(subject: Subject) -> None:
    right, _ = subject.expected()
    with torch.inference_mode():
        module = subject.make()
        subject.assert_outputs(subject.outputs(module), right)
    with torch.no_grad():
        subject.assert_outputs(subject.outputs(module), right)


def test_trained_after_inference_mode(subject: Subject) -> None:
    module = subject.make()
    right, gradients = subject.expected()
    with torch.inference_mode():
        subject.assert_outputs(subject.outputs(module), right)
    subject.assert_gradients(subject.gradients(module), gradients)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_deterministic(subject: Subject) -> None:
    found = subject.gradients(subject.make())
    subject.assert_gradients(found, subject.expected()[1])
    again = subject.gradients(subject.make())
    assert all(torch.equal(again[name], value) for name, value in found.items())


def test_meta_device(subject: Subject) -> None:
    with torch.device("meta"):
        module = subject.make()
    outputs = subject.outputs(module, [given.to("meta") for given in subject.inputs])
    right, gradients = subject.expected()
    assert [part.shape for part in outputs] == [part.shape for part in right]
    assert all(part.is_meta for part in outputs)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(torch.nan)  # as memory may be
    module.load_state_dict(subject.make().state_dict())
    subject.assert_outputs(subject.outputs(module), right)
    subject.assert_gradients(subject.gradients(module), gradients)


@pytest.mark.parametrize("kind", LAYERS)
def test_reset_on_meta_device(subject: Subject) -> None:
    with torch.device("meta"):
        module = subject.make()
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(torch.nan)
    fresh = subject.make(seed=5)
    for one in (module, fresh):
        torch.manual_seed(3)
        reset(one)
    assert all(map(torch.equal, module.state_dict().values(), fresh.state_dict().values()))
    subject.assert_right(module)


def test_fake_tensors(subject: Subject) -> None:
    right, slopes = subject.expected()
    with FakeTensorMode() as mode:
        module = subject.make(dtype=torch.float32)
        x, edge_index, pos = (mode.from_tensor(given) for given in subject.inputs)
        inputs = (x.float(), edge_index, pos)
        outputs = subject.outputs(module, inputs)
        gradients = subject.gradients(module, inputs)
    assert [part.shape for part in outputs] == [part.shape for part in right]
    assert {part.dtype for part in outputs} == {torch.float32}
    assert {k: v.shape for k, v in gradients.items()} == {k: v.shape for k, v in slopes.items()}


@pytest.fixture
def double(subject: Subject) -> Iterator[nn.Module]:
    module = subject.make()
    subject.expected()
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_double_by_default(subject: Subject, double: nn.Module, dtype: torch.dtype) -> None:
    right, slopes = subject.expected()
    module = subject.make(dtype=dtype)
    module.load_state_dict(double.state_dict())
    x, edge_index, pos = subject.inputs
    found = subject.outputs(module, (x.to(dtype), edge_index, pos))
    gradients = subject.gradients(module, (x.to(dtype), edge_index, pos))
    assert {part.dtype for part in (*found, *gradients.values())} == {dtype}
    if dtype == torch.float64:
        subject.assert_outputs(found, right)
        subject.assert_gradients(gradients, slopes)
    else:
        subject.assert_close(found, right, 2e-5)
