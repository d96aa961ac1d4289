"""Whom a cell attends to: its neighbours, virtual cells and CLS, where they lie in the file."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.models.attention import attention_of
from stofm_geo.tasks import fine_tune
from tests.helpers import SMALL


@pytest.fixture(scope="module")
def tissue():
    return toy_tissue(400, 60, 2, seed=1)


@pytest.fixture(scope="module", params=["pca", "panel"])
def model(request, tissue) -> SToFM:
    settings = {**SMALL, "encoder": request.param, "cells_per_subslice": 150}
    return SToFM(**settings).fit(tissue, slice_key="slice_id", max_steps=2, progress=False)


@pytest.mark.parametrize("row", [0, 123, 399])
def test_neighbours_and_virtual_cells_where_they_lie(tissue, model, row: int) -> None:
    found = attention_of(model, tissue, row, slice_key="slice_id")
    xy = tissue.obsm["spatial"]
    cells = found.node_type == 0
    assert found.weight.shape == (SMALL["num_layers"], len(found.rows), SMALL["heads"])
    np.testing.assert_allclose(found.weight.sum(axis=1), 1, rtol=1e-5)
    assert (found.node_type == 1).sum() == 1 and (found.node_type == 2).any()
    assert (found.rows[~cells] == -1).all() and np.isnan(found.pos[found.node_type == 1]).all()
    # Neighbours are near, of the same slice, and drawn where the file has them.
    own = np.flatnonzero(tissue.obs["slice_id"] == tissue.obs["slice_id"].iloc[row])
    _, near = cKDTree(xy[own]).query(xy[row], k=13)
    assert set(own[near]) - {row} <= set(found.rows[cells])
    spacing = np.ptp(xy, axis=0).max() * 1e-4
    np.testing.assert_allclose(found.pos[cells], xy[found.rows[cells]], atol=spacing)
    virtual = found.pos[found.node_type == 2]
    assert (virtual >= xy[own].min(axis=0)).all() and (virtual <= xy[own].max(axis=0)).all()


def test_by_name(tissue, model) -> None:
    name = tissue.obs_names[7]
    found = attention_of(model, tissue, name, slice_key="slice_id")
    assert found.row == 7


def test_what_cannot_be_is_named(tissue, model) -> None:
    with pytest.raises(KeyError, match="0 cells are named 'nobody'"):
        attention_of(model, tissue, "nobody")
    with pytest.raises(KeyError, match="no row 400; adata has 400 cells"):
        attention_of(model, tissue, 400)
    with pytest.raises(TypeError, match="found int"):
        attention_of(3, tissue, 0)
    annotator = fine_tune(model, tissue, "region", slice_key="slice_id", progress=False)
    with pytest.raises(TypeError, match="found Annotator: give its model"):
        attention_of(annotator, tissue, 0)
    with pytest.raises(TypeError, match=r"a name in obs_names or a row; found 1\.5"):
        attention_of(model, tissue, 1.5)
    with pytest.raises(RuntimeError, match="no weights"):
        attention_of(SToFM(), tissue, 0)
