"""What was prepared once is used by every step, and refused by another model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from stofm_geo import SToFM, tl
from stofm_geo.cli import app
from stofm_geo.data import slices
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PCAFeatures
from stofm_geo.models import prepare
from stofm_geo.tasks import fine_tune
from stofm_geo.transforms import MacroNodes, SpatialKNN
from tests.helpers import SMALL


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often what is costly is done: on which slice, by its number of cells."""
    found: Counter = Counter()

    def count(owner, name: str, size) -> None:
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            found[name if owner in (slices, prepare) else owner.__name__, size(args)] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(SpatialKNN, "transform_graph", lambda args: args[1].num_nodes)
    count(MacroNodes, "cluster", lambda args: len(args[1]))
    count(PCAFeatures, "transform", lambda args: args[1].n_obs)
    count(slices, "canonical_pose", lambda args: len(args[1]))
    count(slices, "as_counts", lambda args: args[0].n_obs)
    fit = SToFM.fit  # as many steps as it takes change nothing of this
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k | {"max_steps": 2}))
    return found


def test_embed_computes_nothing_twice(calls, tmp_path) -> None:
    for name, cells in (("a", 150), ("b", 160)):
        toy_tissue(cells, 30, seed=cells).write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    result = CliRunner().invoke(app, ["embed", *files, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for cells in (150, 160):
        for kind in ("MacroNodes", "PCAFeatures", "canonical_pose", "as_counts"):
            assert calls[kind, cells] == 1, kind
        # The second are the neighbours that vote on domains: of all cells, another number of them.
        assert calls["SpatialKNN", cells] == 2


@pytest.mark.slow
def test_labels_are_learned_and_predicted_on_the_same_graphs(calls) -> None:
    reference, other = toy_tissue(150, 30, seed=0), toy_tissue(160, 30, seed=1)
    tl.annotate(other, reference, "region", progress=False)
    for kind in ("SpatialKNN", "MacroNodes", "PCAFeatures", "canonical_pose", "as_counts"):
        assert calls[kind, 150] == calls[kind, 160] == 1, kind


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["pca", "panel"])
def test_the_same_numbers_as_without(encoder) -> None:
    adata, again = toy_tissue(150, 30, seed=0), toy_tissue(150, 30, seed=0)
    model = SToFM(**SMALL, encoder=encoder)
    tissue = model.prepare(adata)
    model.fit(tissue, max_steps=2, progress=False).embed(tissue)
    plain = SToFM(**SMALL, encoder=encoder).fit(again, max_steps=2, progress=False)
    plain.embed(again)
    assert model.weights_hash() == plain.weights_hash()
    np.testing.assert_array_equal(adata.obsm["X_stofm"], again.obsm["X_stofm"])
    found = fine_tune(model, tissue, "region", progress=False)
    expected = fine_tune(plain, again, "region", progress=False)
    np.testing.assert_array_equal(found.probabilities(tissue), expected.probabilities(again))


def test_cells_without_counts_of_the_shared_genes_are_left_out() -> None:
    first, second = toy_tissue(150, 30, seed=0), toy_tissue(150, 20, seed=1)
    counts = first.X.tolil()
    counts[:5, :20] = 0  # these have counts of genes that the second lacks, and of no others
    counts[:5, 25] = 3
    first.X = counts.tocsr()
    model = SToFM(**SMALL)
    tissues = [model.prepare(first), model.prepare(second)]
    with pytest.warns(UserWarning, match="5 of 150 cells have no counts of the model's genes"):
        model.fit(tissues, max_steps=2, progress=False)
    assert [len(part) for tissue in tissues for part in tissue.slices] == [145, 150]
    model.embed(tissues[0])
    assert not first.obsm["X_stofm"][:5].any() and first.obsm["X_stofm"][5:].any(axis=1).all()


def test_another_model_refuses_it() -> None:
    adata = toy_tissue(150, 30, seed=0)
    tissue = SToFM(**SMALL, k=6).prepare(adata, name="a.h5ad")
    model = SToFM(**SMALL).fit(adata, max_steps=1, progress=False)
    with pytest.raises(ValueError, match=r"a\.h5ad was prepared for a model of another conf"):
        model.embed(tissue)
    with pytest.raises(TypeError, match="must be all AnnData or all prepared; found AnnData"):
        model.fit([tissue, adata])
    with pytest.raises(RuntimeError, match="no weights"):
        SToFM().embed(tissue)
