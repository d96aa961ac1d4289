"""An encoder that is made again from its state is the same one, whatever its settings."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData

import stofm_geo.genes
from stofm_geo.genes import CellFeatures, CountsEncoder, ObsmFeatures, PanelEncoder, PCAFeatures
from stofm_geo.genes.encoders import from_state
from tests.helpers import make_slice

# A value of every argument that is not its default.
ARGUMENTS: dict[type, dict[str, Any]] = {
    PCAFeatures: {"n_components": 4},
    ObsmFeatures: {"key": "X_scVI"},
    PanelEncoder: {
        "genes": [f"gene{i}" for i in range(11, -1, -1)],
        "out_channels": 8,
        "hidden_channels": 16,
        "n_components": 6,
        "technologies": ["Xenium", "MERFISH"],
        "molecules": True,
    },
}


@pytest.fixture
def adata() -> AnnData:
    adata = make_slice(60, 12)
    adata.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(60, 6)) * 7
    adata.uns["technology"] = "MERFISH"
    return adata


def made(kind: type, adata: AnnData, **changed: Any) -> Any:
    encoder = kind(**(ARGUMENTS[kind] | changed))
    if isinstance(encoder, PanelEncoder):
        torch.manual_seed(0)
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter)
        return encoder.eval()
    return encoder.fit([adata])


def again(encoder: Any) -> Any:
    settings, arrays = encoder.state()
    new = from_state(json.loads(json.dumps(settings)), arrays)
    if isinstance(encoder, torch.nn.Module):
        new.load_state_dict(encoder.state_dict())
        new.eval()
    return new


def test_all_encoders_and_all_their_arguments_are_here() -> None:
    public = [getattr(stofm_geo.genes, name) for name in stofm_geo.genes.__all__]
    with_state = {one for one in public if isinstance(one, type) and hasattr(one, "state")}
    assert with_state - {CellFeatures, CountsEncoder} == set(ARGUMENTS)
    for kind, arguments in ARGUMENTS.items():
        parameters = inspect.signature(kind).parameters
        assert arguments.keys() == parameters.keys()
        for name, value in arguments.items():
            assert value != parameters[name].default, name


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
def test_an_encoder_made_again_is_the_same(adata: AnnData, kind: type) -> None:
    encoder = made(kind, adata)
    new = again(encoder)
    assert type(new) is kind and repr(new) == repr(encoder)
    assert new.out_channels == encoder.out_channels
    for name in ARGUMENTS[kind]:
        assert np.array_equal(getattr(new, name), getattr(encoder, name)), name
    (settings, arrays), (expected, expected_arrays) = new.state(), encoder.state()
    assert json.dumps(settings) == json.dumps(expected)
    assert arrays.keys() == expected_arrays.keys()
    for name, value in arrays.items():
        assert value.dtype == expected_arrays[name].dtype
        assert value.tobytes() == expected_arrays[name].tobytes()
    assert new.transform(adata).tobytes() == encoder.transform(adata).tobytes()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in ARGUMENTS.items() for name in names]
)
def test_an_argument_that_is_not_stored_is_missed(adata: AnnData, kind: type, name: str) -> None:
    settings, arrays = made(kind, adata).state()
    del settings[name]
    with pytest.raises(KeyError, match=name):
        from_state(settings, arrays)


def test_components_of_a_panel_encoder_change_its_vectors(adata: AnnData) -> None:
    few, many = (made(PanelEncoder, adata, n_components=k) for k in (3, 9))
    few.load_state_dict(many.state_dict())
    assert not np.allclose(few.transform(adata), many.transform(adata), atol=0.1)
    for encoder in (few, many):
        np.testing.assert_array_equal(again(encoder).transform(adata), encoder.transform(adata))
