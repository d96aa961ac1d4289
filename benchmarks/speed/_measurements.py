"""The measurements by name, what each is given, and how it says that it cannot be made.

A module of that name here has two functions: ``measure(given, watch)`` gives a result of plain
numbers and words that JSON holds, each case of it by ``watch(name, function, *arguments)``
(:class:`benchmarks.speed._machine.Watch`); ``report(result)`` its tables and panels
(:class:`benchmarks.speed._section.Section`). This file imports nothing heavy, since processes whose
memory is measured start with it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES = (
    "attention",
    "corpus",
    "encoder",
    "fitting",
    "growth",
    "instruments",
    "large_corpus",
    "layers",
    "scale",
    "subslices",
    "tokens",
)
NEEDS = {"tokens": ("data", "vocabulary")}  # without these there is nothing to measure


@dataclass(frozen=True)
class Given:
    """What a run was told; what it was not told is ``None``, and what needs that is left out."""

    quick: bool = False  # small sizes: does it work at all?
    data: Path | None = None  # folder of .h5ad files
    vocabulary: Path | None = None  # folder of Geneformer's dictionaries
    reference: Path | None = None  # checkout of PharMolix/SToFM


class LeftOut(Exception):
    """Something optional is not there; the message is the reason."""


class Failed(RuntimeError):
    """A process raised, was killed or ran out of time; the message is the reason."""


def module(name: str) -> ModuleType:
    """Of one of :data:`NAMES`."""
    return importlib.import_module(f"benchmarks.speed.{name}")


def needed(name: str) -> ModuleType:
    """Of the functions that a measurement calls.

    Raises:
        LeftOut: A package that it imports is not installed.
    """
    try:
        return module(name)
    except ImportError as error:
        raise LeftOut(str(error)) from error


def measure(name: str, given: Given) -> dict[str, Any]:
    """Make one measurement, in this process.

    Raises:
        LeftOut: What it cannot do without is not there.
    """
    for need in NEEDS.get(name, ()):
        if getattr(given, need) is None:
            raise LeftOut(f"no --{need}")
    from benchmarks.speed._machine import Watch, description

    watch = Watch(given.quick)
    result = module(name).measure(given, watch)
    return {"machine": description(), "cases": watch.cases, **result}
