"""Attention of one cell on the tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.models.attention import attention_of
from stofm_geo.pl import attention
from tests.helpers import SMALL

SETTINGS = {**SMALL, "cells_per_subslice": 150}


@pytest.fixture(scope="module")
def tissue():
    return toy_tissue(300, 20, 2)


@pytest.fixture(scope="module")
def model(tissue) -> SToFM:
    return SToFM(**SETTINGS).fit(tissue, slice_key="slice_id", max_steps=2, progress=False)


def test_shares_and_places(tissue, model, tmp_path: Path) -> None:
    name = tissue.obs_names[200]
    left, right = attention(model, tissue, name, slice_key="slice_id", save=tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    found = attention_of(model, tissue, name, slice_key="slice_id")
    share = found.weight[-1].mean(axis=1)
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
    cells = found.node_type == 0
    assert right.get_title() == f"{cells.sum()} neighbours {share[cells].sum():.0%}"
    assert left.get_title().startswith(f"macro nodes {share[found.node_type == 2].sum():.0%}")
    assert len(right.lines) == cells.sum() + 1  # and the scale bar
    # Only the cell's own slice, and of it all neighbours in the close-up.
    own = tissue.obs["slice_id"] == tissue.obs["slice_id"].iloc[200]
    assert len(left.collections[0].get_offsets()) == own.sum()
    (x0, x1), (y1, y0) = right.get_xlim(), right.get_ylim()
    x, y = tissue.obsm["spatial"][found.rows[cells]].T
    assert ((x0 < x) & (x < x1) & (y0 < y) & (y < y1)).all()
    assert name in left.figure.texts[0].get_text()


def test_layers_differ(tissue, model) -> None:
    of = [attention(model, tissue, 3, layer=i, slice_key="slice_id")[1] for i in (0, 1, -1)]
    colors = [ax.collections[0].get_facecolors() for ax in of]
    assert (colors[0] != colors[1]).any()
    np.testing.assert_array_equal(colors[1], colors[2])
    with pytest.raises(ValueError, match="no layer 2; the model has 2"):
        attention(model, tissue, 3, layer=2, slice_key="slice_id")
