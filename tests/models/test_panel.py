"""A model whose gene embeddings are trained with it: any panel, nothing given away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData

from stofm_geo import SToFM
from stofm_geo._keys import NodeType
from stofm_geo.data import TissueSlice, split_slices
from stofm_geo.data.subslices import SubSliceDataset, collate_subslices
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PanelEncoder
from stofm_geo.networks import NicheNetwork, SToFMConfig
from stofm_geo.networks.warm_start import warm_start
from stofm_geo.training.pretraining_loader import pretraining_loader
from tests.helpers import SMALL, turned

PANEL = {**SMALL, "encoder": "panel", "k": 8, "out_channels": 48}  # three times the encoder's
SETTINGS = SToFMConfig(**PANEL)
CUT = SETTINGS.subslice_options


@pytest.fixture(scope="module")
def part() -> TissueSlice:
    return split_slices(toy_tissue(300, 40, seed=0))[0]


@pytest.fixture(scope="module")
def encoder(part) -> PanelEncoder:
    torch.manual_seed(0)
    return PanelEncoder.from_slices(
        [part.adata], out_channels=16, n_components=SMALL["n_components"]
    )


@pytest.fixture
def subslice(part, encoder):
    return SubSliceDataset(part, encoder, **CUT)[0]


def test_virtual_cells_have_the_means_of_their_cells(subslice) -> None:
    macro = (subslice.node_type == NodeType.MACRO).nonzero().view(-1)
    for node in macro.tolist():
        torch.testing.assert_close(
            subslice.x[node], subslice.x[subslice.cluster == node].mean(dim=0)
        )
    assert not subslice.x[subslice.node_type == NodeType.CLS].any()  # the mean of the slice


def test_the_network_sees_what_the_encoder_makes(part, encoder, subslice) -> None:
    torch.manual_seed(0)
    torch.nn.init.normal_(encoder.narrow.weight)
    network = NicheNetwork(16, SETTINGS, encoder)
    with torch.no_grad():
        found = network.features(subslice)
        average = encoder.refine(torch.zeros(1, 16))
        torch.testing.assert_close(found[subslice.node_type == NodeType.CLS], average)
    expected = encoder.transform(part.adata)
    order = np.argsort(part.row)
    cells = (subslice.n_id >= 0).numpy()
    mine = np.searchsorted(part.row[order], subslice.n_id[cells].numpy())
    np.testing.assert_allclose(found[cells].numpy(), expected[order[mine]], atol=1e-4, rtol=1e-4)


def test_features_and_estimates_of_a_batch_are_those_of_its_slices(panels) -> None:
    first, second = (split_slices(adata)[0] for adata in panels)
    torch.manual_seed(0)
    encoder = PanelEncoder.from_slices(
        [first.adata, second.adata], out_channels=16, n_components=SMALL["n_components"]
    )
    network = NicheNetwork(16, SETTINGS, encoder).eval()
    each = [SubSliceDataset(part, encoder, **CUT)[0] for part in (first, second)]
    with torch.no_grad():
        torch.testing.assert_close(
            network.features(collate_subslices(each)),
            torch.cat([network.features(one) for one in each]),
        )
        z = [torch.randn(one.num_nodes, 48) for one in each]
        found = network.decode_niche(torch.cat(z), collate_subslices(each))
        expected = [
            network.decode_niche(one, collate_subslices([data]))
            for one, data in zip(z, each, strict=True)
        ]
        torch.testing.assert_close(found, torch.cat(expected))


def test_what_the_encoder_makes_is_read_as_it_was(subslice, encoder) -> None:
    network = NicheNetwork(16, SETTINGS, encoder)
    with torch.no_grad():
        h = subslice.x @ encoder.component_embeddings(subslice.panel, subslice.loadings)
        found = h @ network.component_decoder(subslice.panel, subslice.loadings)
    assert (found - subslice.x).square().mean() < 1e-3 * subslice.x.square().mean()


def test_warm_start_tells_components_from_noise(part) -> None:
    torch.manual_seed(0)
    encoder = PanelEncoder.from_slices(
        [part.adata], out_channels=16, n_components=SMALL["n_components"]
    )
    subslice = SubSliceDataset(part, encoder, **CUT)[0]
    warm_start(encoder, [(subslice.panel, subslice.loadings)])
    axes = subslice.loadings / subslice.loadings.norm(dim=0)
    with torch.no_grad():
        asked = axes.t() @ encoder.embedding[subslice.panel]
        other = encoder.embedding[subslice.panel] - axes @ asked
    assert other.square().mean() < 0.2 * asked.square().mean()
    # Each component by itself: no two are mixed.
    assert torch.linalg.cond(asked) < 20


@pytest.fixture(scope="module")
def panels() -> list[AnnData]:
    """Two tissues, of which each lacks some genes of the other."""
    first, second = toy_tissue(300, 40, seed=0), toy_tissue(260, 40, seed=1)
    return [first[:, :30].copy(), second[:, 12:].copy()]


@pytest.fixture(scope="module")
def fitted(panels) -> SToFM:
    return SToFM(**PANEL).fit(panels, max_steps=30, progress=False)


def test_one_model_of_two_panels(fitted, panels, tmp_path) -> None:
    assert len(fitted.encoder.genes) == 40
    record = fitted.training_record
    assert np.isfinite([value for name, value in record.items() if "loss" in name]).all()
    fitted.save_pretrained(tmp_path / "model")
    again = SToFM.from_pretrained(tmp_path / "model")
    for adata in panels:
        vectors = []
        for model in (fitted, again):
            model.embed(adata)
            vectors.append(adata.obsm["X_stofm"])
        assert np.isfinite(vectors[0]).all() and vectors[0].std(axis=0)[:48].min() > 0
        assert vectors[0].tobytes() == vectors[1].tobytes()


def test_turned_sorted_anew_and_fitted_again_it_is_the_same(fitted, panels) -> None:
    adata = panels[0]
    fitted.embed(adata)
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    other.obsm["spatial"] = turned(other.obsm["spatial"], 1.0, 1000.0)
    fitted.embed(other)
    same = other[adata.obs_names].obsm["X_stofm"]
    np.testing.assert_allclose(same, adata.obsm["X_stofm"], atol=1e-5)
    again = SToFM(**PANEL).fit(panels, max_steps=30, progress=False)
    assert again.weights_hash() == fitted.weights_hash()


def test_technologies_are_known_by_name(panels) -> None:
    first, second = (adata.copy() for adata in panels)
    first.uns["technology"], second.uns["technology"] = "MERFISH", "Xenium"
    model = SToFM(**PANEL).fit([first, second], max_steps=30, progress=False)
    assert model.encoder.technologies == ["MERFISH", "Xenium"]
    vectors = []
    for name in ("MERFISH", "Xenium", "one of tomorrow"):
        first.uns["technology"] = name
        model.embed(first)
        vectors.append(first.obsm["X_stofm"])
    assert not np.allclose(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2])


@pytest.mark.slow
def test_training_lowers_the_loss(panels) -> None:
    model = SToFM(**PANEL, learning_rate=3e-3).fit(panels, max_steps=250, progress=False)
    first = SToFM(**PANEL, learning_rate=3e-3).fit(panels, max_steps=50, progress=False)
    assert model.training_record["niche_loss"] < 0.95 * first.training_record["niche_loss"]


def test_genes_are_harmonised_where_that_is_asked_for(monkeypatch) -> None:
    adata = toy_tissue(120, 20, seed=0)
    symbols = ["ACTB", "GAPDH", "CD3E", "CD4", "CD8A", "MS4A1", "CD19", "EPCAM", "VIM", "KRT8"]
    symbols += ["PTPRC", "COL1A1", "PECAM1", "CD68", "LYZ", "NKG7", "GFAP", "MBP", "SNAP25", "RELN"]
    adata.var_names = symbols
    model = SToFM(**PANEL, organism="auto").fit(adata, max_steps=3, progress=False)
    assert model.encoder.genes.str.startswith("ENSG").all()
    mouse = adata.copy()
    mouse.var_names = [name.capitalize() for name in symbols]
    model.embed(mouse)
    assert np.isfinite(mouse.obsm["X_stofm"]).all()
    assert list(mouse.var_names) == [name.capitalize() for name in symbols]  # as they were
    with pytest.raises(ValueError, match="AnnData: no name is a known gene"):
        model.embed(toy_tissue(120, 20, seed=0))


def test_settings_of_the_encoder_are_checked() -> None:
    with pytest.raises(ValueError, match=r"encoder must be one of 'pca', 'panel'.*; found 'bert'"):
        SToFM(encoder="bert")
    with pytest.raises(ValueError, match="organism must be 'auto', 'human', 'mouse' or None"):
        SToFM(organism="rat")


def test_the_loader_of_puzzles(part, encoder) -> None:
    masked = next(iter(pretraining_loader(SubSliceDataset(part, encoder, **CUT), SETTINGS, 1)))
    z, _ = NicheNetwork(16, SETTINGS, encoder)(masked)
    assert z.shape == (masked.num_nodes, 48) and torch.isfinite(z).all()


def test_a_panel_of_fewer_genes_than_components() -> None:
    few = toy_tissue(200, 5, seed=0)
    model = SToFM(**PANEL).fit([few, toy_tissue(200, 40, seed=1)], max_steps=3, progress=False)
    model.embed(few)
    assert np.isfinite(few.obsm["X_stofm"]).all()
    assert all(torch.isfinite(weight).all() for weight in model.network.parameters())
