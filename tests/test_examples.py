"""The examples and the README's Python run as they stand (on fewer training steps)."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch) -> None:
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k, max_steps=2, progress=False))
    monkeypatch.chdir(tmp_path)
    toy_tissue(400, seed=0).write_h5ad("SLICE.h5ad")


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*.py")), ids=lambda file: file.stem)
def test_example(file, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [file.name, "SLICE.h5ad"])
    runpy.run_path(str(file), run_name="__main__")


def test_readme_has_blocks() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=["biologist", "graph learner"])
def test_readme_block(block) -> None:
    exec(compile(block, "README.md", "exec"), {})
