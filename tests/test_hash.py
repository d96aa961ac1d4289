"""JSON with a checksum of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stofm_geo._hash import check_hash, with_hash

FILE, VALUES = Path("a.json"), {"b": [1, 0.1, None], "a": {"x": "y"}}


def test_what_was_written_is_what_is_read() -> None:
    told = json.loads(json.dumps(with_hash(VALUES, "sum")))
    check_hash(told, "sum", ("a", "b"), FILE)
    assert set(told) == {"a", "b", "sum"} and len(told["sum"]) == 64
    check_hash(VALUES, "sum", ("a", "b"), FILE)  # by hand, without one


def test_another_value_is_told() -> None:
    told = with_hash(VALUES, "sum") | {"a": {"x": "z"}}
    with pytest.raises(ValueError, match=r"a\.json: is not what was written; .* remove 'sum'"):
        check_hash(told, "sum", ("a", "b"), FILE)


def test_a_damaged_name_of_the_checksum_is_told() -> None:
    told = with_hash(VALUES, "sum") | {"a": {"x": "z"}}
    told["rum"] = told.pop("sum")
    with pytest.raises(ValueError, match=r"a\.json: has unknown rum; remove it"):
        check_hash(told, "sum", ("a", "b"), FILE)
