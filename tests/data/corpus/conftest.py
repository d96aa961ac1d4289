"""Small sources, and a corpus of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stofm_geo.data.corpus import build, find_sources
from stofm_geo.datasets import toy_tissue
from tests.helpers import CUT


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """Three files of five slices, of panels that differ."""
    folder = tmp_path_factory.mktemp("sources")
    tissue = toy_tissue(700, 40, n_slices=3, seed=0)
    tissue.uns["technology"] = "toy"
    tissue.write_h5ad(folder / "three.h5ad")
    toy_tissue(200, 40, seed=1)[:, 12:].copy().write_h5ad(folder / "one.h5ad")
    toy_tissue(150, 4, seed=2).write_h5ad(folder / "tiny_panel.h5ad")
    return folder


@pytest.fixture(scope="session")
def corpus(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    found = find_sources([sources], slice="slice_id", organism="none")
    assert build(found, folder, **CUT) == []
    return folder
