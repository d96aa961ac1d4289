"""Names: unknown ones are told with what there is, taken ones are refused."""

from __future__ import annotations

import pytest
from torch import nn

from stofm_geo import benchmark
from stofm_geo._registry import Registry


def test_names() -> None:
    known: Registry[int] = Registry("fruit", "plant it first")
    known.add("apple", 1)
    known.add("pear", 2)
    assert list(known) == ["apple", "pear"] and known["pear"] == 2 and "fig" not in known
    unknown = "no fruit is called 'aple'; did you mean 'apple'. there are apple, pear; plant it"
    with pytest.raises(KeyError, match=unknown):
        known["aple"]
    with pytest.raises(ValueError, match="there is a fruit 'pear' already"):
        known.add("pear", 3)
    with pytest.raises(TypeError, match="must be a string; found 3"):
        known.add(3, 3)
    with pytest.raises(ValueError, match="must not have a comma; found 'a, b'"):
        known.add("a, b", 1)
    with pytest.raises(ValueError, match="is empty"):
        known.add(" ", 3)


def test_what_is_no_model_or_task_is_refused() -> None:
    with pytest.raises(TypeError, match="give either solve"):
        benchmark.register_model("x")
    with pytest.raises(TypeError, match="give either solve"):
        benchmark.register_model("x", print, layer=nn.Identity)
    with pytest.raises(ValueError, match="kinds must be of classes"):
        benchmark.register_model("x", print, kinds=["colours"])
    with pytest.raises(ValueError, match="kind must be one of"):
        benchmark.register_task("x", "colours", ["toy"], lambda slices, name: iter(()))
    assert "x" not in benchmark.MODELS and "x" not in benchmark.TASKS
