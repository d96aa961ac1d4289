"""The README is short, and its numbers are those of the records."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def macros() -> ModuleType:
    """The macros of the site, which compute numbers from the records."""
    spec = importlib.util.spec_from_file_location("docs_macros", ROOT / "docs" / "_macros.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_at_most_120_lines() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize(
    ("mark", "macro"), [("results", "readme_table"), ("direction", "direction_table")]
)
def test_its_tables_are_those_of_the_records(macros: ModuleType, mark: str, macro: str) -> None:
    found = re.search(f"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", README, re.DOTALL)
    assert found is not None
    assert found[1].strip() == getattr(macros, macro)()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    missing = [x for x in links if not x.startswith("http") and not (ROOT / x).exists()]
    assert links and not missing
