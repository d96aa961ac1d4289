"""Other methods, where they are installed; where they are not, one line says how to."""

from __future__ import annotations

import importlib.util
import os
import random
import sys

import numpy as np
import pytest
import torch
from anndata import AnnData

from stofm_geo.benchmark import external_methods
from stofm_geo.benchmark.external_methods import EXTERNAL_METHODS
from stofm_geo.datasets import toy_tissue

# Columns that methods would take for their own, were they handed on.
MISLEADING = ("highly_variable", "novae_use_gene")
SIZE = {"GraphST": 20, "STAGATE": 30, "Novae (from scratch)": 64}  # BANKSY: 20


@pytest.fixture
def tissue() -> AnnData:
    return toy_tissue(200, 60)


@pytest.mark.parametrize("name", EXTERNAL_METHODS)
def test_absent_method_is_told_in_one_line(name, tissue, monkeypatch) -> None:
    method = EXTERNAL_METHODS[name]
    for loaded in [m for m in sys.modules if m.partition(".")[0] == method.module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, method.module, None)
    with pytest.raises(ImportError) as found:
        method.embed([tissue], 0)
    assert "\n" not in str(found.value)
    assert str(found.value).startswith(f"{method.module} cannot be imported")
    assert str(found.value).endswith(method.install)


@pytest.mark.parametrize(
    "name", [name for name in EXTERNAL_METHODS if not name.startswith("Novae")]
)
@pytest.mark.parametrize("count", [0, 2])
def test_methods_of_one_slice_refuse_others(name, count, tissue) -> None:
    with pytest.raises(ValueError, match=f"one slice at a time, not {count}$"):
        EXTERNAL_METHODS[name].embed([tissue] * count, 0)


def test_settings_tell_epochs_and_lines_tell_packages() -> None:
    for method in EXTERNAL_METHODS.values():
        assert method.install.startswith("pip install ")
    for name, epochs in external_methods.EPOCHS.items():
        assert any(
            str(epochs) in p.settings for key, p in EXTERNAL_METHODS.items() if key.startswith(name)
        )


@pytest.mark.parametrize("name", EXTERNAL_METHODS)
def test_methods_embed_and_leave_no_trace(name, tissue, monkeypatch) -> None:
    method = EXTERNAL_METHODS[name]
    if importlib.util.find_spec(method.module) is None:
        pytest.skip(f"{method.module} is not installed; {method.install}")
    for name_of_epochs in external_methods.EPOCHS:
        monkeypatch.setitem(
            external_methods.EPOCHS, name_of_epochs, 3
        )  # Novae's schedule divides by all but two
    for column in MISLEADING:
        tissue.var[column] = np.arange(60) < 30
    before, environ = tissue.copy(), dict(os.environ)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002

    (found,) = method.embed([tissue], 0)
    assert found.shape == (200, SIZE.get(name, 20)) and found.dtype == np.float32
    assert np.isfinite(found).all() and (found.std(axis=0) > 0).any()
    assert np.array_equal(found, method.embed([tissue], 0)[0])

    assert set(tissue.obs) == set(before.obs) and set(tissue.var) == set(before.var)
    assert set(tissue.obsm) == set(before.obsm) and (tissue.X != before.X).nnz == 0
    assert np.array_equal(tissue.obsm["spatial"], before.obsm["spatial"])
    assert dict(os.environ) == environ
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def test_methods_of_several_slices_embed_each() -> None:
    pytest.importorskip(
        "novae", reason=f"novae is not installed; {external_methods.INSTALL['novae']}"
    )
    both = toy_tissue(120, 60, 2)
    slices = [both[both.obs["slice_id"] == key].copy() for key in both.obs["slice_id"].unique()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(external_methods.EPOCHS, "Novae", 3)
        found = external_methods.novae(slices, 0)
    assert [vectors.shape for vectors in found] == [(60, 64), (60, 64)]
