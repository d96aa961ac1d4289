"""The examples run as they stand (on fewer training steps)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch) -> None:
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k, max_steps=2, progress=False))
    monkeypatch.chdir(tmp_path)
    toy_tissue(400, seed=0).write_h5ad("SLICE.h5ad")


# Its cells run in processes of their own, for minutes; test_models.py of the suite has its layer.
SUITE = ROOT / "examples" / "benchmark_own_layer.py"
EXAMPLES = sorted({*ROOT.glob("examples/*.py")} - {SUITE})


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example(file, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [file.name, "SLICE.h5ad"])
    runpy.run_path(str(file), run_name="__main__")
