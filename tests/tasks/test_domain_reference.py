"""Domains of new slices by the names of an earlier run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stofm_geo.tl import domains


def bands(labels: tuple[int, ...] = (0, 1, 2), seed: int = 0, shift: float = 0.0) -> AnnData:
    """Bands along x, 80 cells each, with vectors of their own; ``obs["band"]`` tells which."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(9).normal(size=(3, 12))
    band = rng.permutation(np.repeat(labels, 80))
    adata = AnnData(np.zeros((len(band), 1), np.float32))
    adata.obs["band"] = band
    adata.obsm["X_stofm"] = centre[band] + 0.2 * rng.normal(size=(len(band), 12)) + shift
    adata.obsm["spatial"] = rng.uniform(0, 20, (len(band), 2)) + np.stack([20 * band, 0 * band], 1)
    adata.uns["stofm"] = {"weights_sha256": "a" * 64}
    return adata


@pytest.fixture
def old() -> AnnData:
    """An earlier run, whose domains got names and colours."""
    adata = bands()
    domains(adata, 3)
    names = {adata.obs.loc[adata.obs["band"] == i, "stofm_domain"].mode()[0]: i for i in range(3)}
    called = [("cortex", "tumour", "stroma")[names[c]] for c in "012"]
    adata.obs["stofm_domain"] = adata.obs["stofm_domain"].cat.rename_categories(called)
    adata.uns["stofm_domain_colors"] = [f"#0000{'0369'[names[c]] * 2}" for c in "012"]
    return adata


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("labels", [(0, 1, 2), (2, 0)])
def test_names_and_colours_are_those_of_the_reference(old, labels, shift) -> None:
    new = bands(labels, seed=5, shift=shift if len(labels) == 3 else 0.0)
    before = old.copy()
    domains(new, reference=old)
    right = np.array(["cortex", "tumour", "stroma"])[new.obs["band"]]
    assert (new.obs["stofm_domain"] == right).mean() > 0.93
    assert list(new.obs["stofm_domain"].cat.categories) == ["cortex", "stroma", "tumour"]
    assert new.uns["stofm_domain_colors"] == ["#000000", "#000066", "#000033"]
    assert new.uns["stofm_domain_slices"]["slices"] == 2
    pd.testing.assert_frame_equal(old.obs, before.obs)
    assert set(old.uns) == set(before.uns)


def test_several_references_and_new_slices(old) -> None:
    part = old[old.obs["band"] != 1].copy()  # its categories and colours are fewer
    rest = old[old.obs["band"] == 1].copy()
    new = [bands(seed=5), bands((1, 2), seed=6)]
    domains(new, reference=[part, rest], integrate="none")
    for one in new:
        right = np.array(["cortex", "tumour", "stroma"])[one.obs["band"]]
        assert (one.obs["stofm_domain"] == right).mean() > 0.93
        assert one.uns["stofm_domain_colors"] == ["#000000", "#000066", "#000033"]


def test_without_colours_and_with_cells_that_have_no_domain(old) -> None:
    del old.uns["stofm_domain_colors"]
    old.obs["stofm_domain"] = old.obs["stofm_domain"].astype(object)
    old.obs.iloc[:20, old.obs.columns.get_loc("stofm_domain")] = np.nan
    new = bands(seed=5)
    domains(new, reference=old)
    right = np.array(["cortex", "tumour", "stroma"])[new.obs["band"]]
    assert (new.obs["stofm_domain"] == right).mean() > 0.93
    assert len(set(new.uns["stofm_domain_colors"])) == 3


def test_one_domain_is_given_to_all(old) -> None:
    new = bands(seed=5)
    domains(new, reference=old[old.obs["stofm_domain"] == "tumour"].copy())
    assert set(new.obs["stofm_domain"]) == {"tumour"}


def test_embeddings_of_another_model_are_refused(old) -> None:
    new = bands(seed=5)
    new.uns["stofm"]["weights_sha256"] = "b" * 64
    message = r"'X_stofm'\] is of different models, weights aaaaaaaaaaaa \(.*0\), bbbbbbbbbbbb"
    with pytest.raises(ValueError, match=message):
        domains(new, reference=old)
    with pytest.raises(ValueError, match=message):
        domains([old, new], 3)
    assert "stofm_domain" not in new.obs


def test_unfit_references(old) -> None:
    new = bands(seed=5)
    with pytest.raises(ValueError, match="leave n_domains out"):
        domains(new, 3, reference=old)
    with pytest.raises(KeyError, match=r"reference: obs has no 'region'.*run tl.domains"):
        domains(new, reference=old, key_added="region")
    with pytest.raises(TypeError, match="reference: an AnnData is needed; found str"):
        domains(new, reference="old.h5ad")  # type: ignore[arg-type]
    old.obs["stofm_domain"] = ""
    with pytest.raises(ValueError, match=r"no cell has a domain in obs\['stofm_domain'\]"):
        domains(new, reference=old)
