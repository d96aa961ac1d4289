"""Examples in docstrings: they run, leave nothing behind, and every public name has one."""

from __future__ import annotations

import doctest
import inspect
import os
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stofm_geo import Annotator, SToFM, SToFMConfig, benchmark
from stofm_geo.genes.encoders import ENCODERS

PACKAGES = (
    "stofm_geo",
    "stofm_geo.benchmark",
    "stofm_geo.data",
    "stofm_geo.datasets",
    "stofm_geo.genes",
    "stofm_geo.nn",
    "stofm_geo.ops",
    "stofm_geo.pl",
    "stofm_geo.tasks",
    "stofm_geo.tl",
    "stofm_geo.transforms",
)
WITH_METHODS = (SToFM, SToFMConfig, Annotator)  # whose methods have examples of their own
WITHOUT = {
    "stofm_geo.__version__": "a constant",
    "stofm_geo.benchmark.DATASETS": "a constant, which the example of Dataset reads",
    "stofm_geo.benchmark.MODELS": "a constant, which the example of register_model reads",
    "stofm_geo.benchmark.TASKS": "a constant, which the example of Task reads",
    "Annotator.embed_slice": "called by training, with sub-slices",
    "Annotator.moments": "called by training, with vectors of a slice",
    "Annotator.vectors": "called by training, with sub-slices",
}
SLOW = ("stofm_geo.benchmark.reporting", "stofm_geo.benchmark.running")  # they start processes


def public_names() -> dict[str, Any]:
    """Return what has a docstring of its own by name: not modules."""
    found = {}
    for package in map(import_module, PACKAGES):
        for name in package.__all__:
            value = getattr(package, name)
            if not isinstance(value, ModuleType):
                found[f"{package.__name__}.{name}"] = value
    for owner in WITH_METHODS:
        for name, value in vars(owner).items():
            value = getattr(value, "__func__", value)  # of a class method
            if not name.startswith("_") and (inspect.isroutine(value) or type(value) is property):
                found[f"{owner.__name__}.{name}"] = value
    return found


NAMES = public_names()
MODULES = sorted({value.__module__ for value in NAMES.values() if callable(value)})


class Finder(doctest.DocTestFinder):
    """Finds functions under a decorator of another module, such as ``torch.no_grad``, too."""

    def _from_module(self, module: Any, object: Any) -> Any:
        own = inspect.unwrap(object) if inspect.isroutine(object) else object
        return super()._from_module(module, own)  # type: ignore[misc]


def mark(module: str) -> Any:
    return pytest.param(module, marks=[pytest.mark.slow] if module in SLOW else [])


@pytest.mark.filterwarnings("ignore")  # where an example shows what is warned of
@pytest.mark.parametrize("module", [mark(name) for name in MODULES])
def test_examples_run(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for registry in (ENCODERS, benchmark.DATASETS, benchmark.MODELS, benchmark.TASKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    # Without the names of the module: an example imports what it uses.
    for example in Finder().find(import_module(module), module, globs={}):
        runner.run(example, out=said.append)
    assert runner.tries, f"{module} has no example"
    assert not runner.failures, f"{runner.failures} lines of {module}:\n{''.join(said)}"
    assert not os.listdir(tmp_path), f"{module}: examples leave files"


def test_every_public_name_has_an_example_at_the_end() -> None:
    lacking = []
    for name, value in NAMES.items():
        _, found, example = (inspect.getdoc(value) or "").rpartition("Examples:\n")
        last = all(line.startswith("    ") for line in example.splitlines() if line)
        if name not in WITHOUT and not (found and last and ">>> " in example):
            lacking.append(name)
    assert not lacking
    assert not WITHOUT.keys() - NAMES.keys(), "exceptions that are no names any more"
