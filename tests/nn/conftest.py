"""Arguments of layers, for the files of this folder."""

from __future__ import annotations

from functools import partial

import pytest

from stofm_geo.nn import SoftOneHotRadial

VECTORS = {"vector_channels": 3, "out_vectors": True}
ALL = {"edge_dim": 3, **VECTORS, "in_vector_channels": 2, "max_order": 3}
OPTIONS: dict[str, dict] = {
    "plain": {},
    "no radial": {"radial": None},
    "edges": {"edge_dim": 3, "concat": False, "root_weight": False},
    "vectors": VECTORS,
    "vectors, no radial": {**VECTORS, "radial": None, "max_order": 1},
    "all": ALL,
    "all, averaged": {**ALL, "concat": False, "root_weight": False, "bias": False},
    "all, soft": {**ALL, "radial": partial(SoftOneHotRadial, cutoff=30.0)},
    "all, reflections": {**ALL, "reflections": True, "out_vectors": False},
}


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> dict:
    """Arguments of a layer, one combination at a time."""
    return OPTIONS[request.param]
