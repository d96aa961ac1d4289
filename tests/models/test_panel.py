"""A model whose gene embeddings are trained with it: any panel, nothing given away."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from stofm_geo import SToFM
from stofm_geo._keys import NodeType
from stofm_geo.data import split_slices
from stofm_geo.data.pieces import pieces
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PanelEncoder
from stofm_geo.models import Settings
from stofm_geo.models.network import Network
from stofm_geo.models.objectives.hide import hide_counts
from stofm_geo.models.puzzles import puzzles
from stofm_geo.models.warm_start import warm_start

SMALL = {
    "encoder": "panel",
    "hidden_channels": 32,
    "heads": 4,
    "num_layers": 2,
    "n_components": 8,
    "out_channels": 48,
    "k": 8,
}
SETTINGS = Settings(**SMALL)


@pytest.fixture(scope="module")
def part() -> AnnData:
    return split_slices(toy_tissue(300, 40, seed=0))[0]


@pytest.fixture(scope="module")
def encoder(part) -> PanelEncoder:
    torch.manual_seed(0)
    return PanelEncoder.of([part], out_channels=16)


@pytest.fixture
def piece(part, encoder):
    return pieces(part, encoder, **SETTINGS.of_pieces)[0]


def rows_of(data) -> np.ndarray:
    ptr = np.r_[0, data.num_genes.cumsum(0).numpy()]
    shape = data.num_nodes, 40
    return sp.csr_matrix((data.value.numpy(), data.gene.numpy(), ptr), shape=shape).toarray()


def test_virtual_cells_have_the_means_of_their_cells(part, encoder, piece) -> None:
    rows, cells = rows_of(piece), encoder.read(part).toarray()
    macro = (piece.node_type == NodeType.MACRO).nonzero().view(-1)
    for node in macro.tolist():
        of = (piece.cluster == node).numpy()
        np.testing.assert_allclose(rows[node], rows[of].mean(axis=0), atol=1e-5)
    cls = int((piece.node_type == NodeType.CLS).nonzero())
    np.testing.assert_allclose(rows[cls], cells.mean(axis=0), atol=1e-5)


def test_the_network_sees_what_the_encoder_makes(part, encoder, piece) -> None:
    torch.manual_seed(0)
    torch.nn.init.normal_(encoder.narrow.weight)
    network = Network(16, SETTINGS, encoder)
    with torch.no_grad():
        found = network.features(piece)
        assert found[piece.node_type == NodeType.CLS].abs().max() == pytest.approx(
            float(encoder.finish(torch.ones(1, 16), torch.ones(1), 0).abs().max()), abs=1e-5
        )
    expected = encoder.transform(part)
    order = np.argsort(part.obs["row"].to_numpy())
    cells = (piece.n_id >= 0).numpy()
    mine = np.searchsorted(part.obs["row"].to_numpy()[order], piece.n_id[cells].numpy())
    np.testing.assert_allclose(found[cells].numpy(), expected[order[mine]], atol=1e-4, rtol=1e-4)


def test_counts_of_hidden_cells_reach_nothing(piece) -> None:
    mask = torch.zeros(piece.num_nodes, dtype=torch.bool)
    mask[[3, 4, 50, 51, 120]] = True
    hidden = mask.nonzero().view(-1)
    piece.mask = mask
    rows = rows_of(piece)
    torch.manual_seed(0)
    first = rows_of(hide_counts(piece.clone(), 0.3))
    assert not first[mask.numpy()].any()
    # Other counts in the hidden cells, and so in the means they are part of.
    rng = np.random.default_rng(0)
    cls = int((piece.node_type == NodeType.CLS).nonzero())
    total = float(piece.cluster_size.sum())
    for i in hidden.tolist():
        new = rows[i] * rng.uniform(0.5, 2, 40)
        node = int(piece.cluster[i])
        rows[node] += (new - rows[i]) / float(piece.cluster_size[node])
        rows[cls] += (new - rows[i]) / total
        rows[i] = new
    piece.value = torch.from_numpy(rows[rows != 0])
    assert (rows != 0).sum() == len(piece.gene)
    torch.manual_seed(0)
    np.testing.assert_allclose(rows_of(hide_counts(piece, 0.3)), first, atol=1e-5)


def test_dropped_values_are_made_up_for(piece) -> None:
    piece.mask = torch.zeros(piece.num_nodes, dtype=torch.bool)
    cells = (piece.node_type == NodeType.CELL).numpy()
    before = rows_of(piece)
    np.testing.assert_allclose(rows_of(hide_counts(piece.clone(), 0.0)), before, atol=1e-6)
    torch.manual_seed(0)
    after = rows_of(hide_counts(piece, 0.4))
    stayed = (after[cells] != 0) & (before[cells] != 0)
    assert 0.55 < stayed.sum() / (before[cells] != 0).sum() < 0.65
    np.testing.assert_allclose(after[cells][stayed], before[cells][stayed] / 0.6, rtol=1e-5)
    np.testing.assert_allclose(after[~cells], before[~cells], atol=1e-5)  # means stay


def test_warm_start_finds_the_components(part) -> None:
    torch.manual_seed(0)
    encoder = PanelEncoder.of([part], out_channels=16)
    network = Network(16, SETTINGS, encoder)
    piece = pieces(part, encoder, **SETTINGS.of_pieces)[0]
    warm_start(network, [(piece.panel, piece.loadings)])
    back = piece.loadings / piece.loadings.square().sum(dim=0)  # from components to values
    values = piece.x @ back.t()
    with torch.no_grad():
        read = network.reads(piece.panel, piece.loadings)
        found = values @ encoder.embedding[piece.panel] @ read
    assert (found - piece.x).square().mean() < 0.01 * piece.x.square().mean()


@pytest.fixture(scope="module")
def panels() -> list[AnnData]:
    """Two tissues, of which each lacks some genes of the other."""
    first, second = toy_tissue(300, 40, seed=0), toy_tissue(260, 40, seed=1)
    return [first[:, :30].copy(), second[:, 12:].copy()]


@pytest.fixture(scope="module")
def fitted(panels) -> SToFM:
    return SToFM(**SMALL).fit(panels, max_steps=30, progress=False)


def test_one_model_of_two_panels(fitted, panels, tmp_path) -> None:
    assert len(fitted.features.genes) == 40
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


def test_turned_sorted_anew_and_fitted_again_it_is_the_same(fitted, panels, turned) -> None:
    adata = panels[0]
    fitted.embed(adata)
    other = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    other.obsm["spatial"] = turned(other.obsm["spatial"], 1.0, 1000.0)
    fitted.embed(other)
    same = other[adata.obs_names].obsm["X_stofm"]
    np.testing.assert_allclose(same, adata.obsm["X_stofm"], atol=1e-5)
    again = SToFM(**SMALL).fit(panels, max_steps=30, progress=False)
    assert again.weights_hash() == fitted.weights_hash()


def test_technologies_are_known_by_name(panels) -> None:
    first, second = (adata.copy() for adata in panels)
    first.uns["technology"], second.uns["technology"] = "MERFISH", "Xenium"
    model = SToFM(**SMALL).fit([first, second], max_steps=30, progress=False)
    assert model.features.technologies == ["MERFISH", "Xenium"]
    vectors = []
    for name in ("MERFISH", "Xenium", "one of tomorrow"):
        first.uns["technology"] = name
        model.embed(first)
        vectors.append(first.obsm["X_stofm"])
    assert not np.allclose(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2])


def test_training_lowers_the_loss(panels) -> None:
    model = SToFM(**SMALL, learning_rate=3e-3).fit(panels, max_steps=250, progress=False)
    first = SToFM(**SMALL, learning_rate=3e-3).fit(panels, max_steps=50, progress=False)
    assert model.training_record["niche_loss"] < 0.9 * first.training_record["niche_loss"]


def test_genes_are_harmonised_where_that_is_asked_for(monkeypatch) -> None:
    adata = toy_tissue(120, 20, seed=0)
    symbols = ["ACTB", "GAPDH", "CD3E", "CD4", "CD8A", "MS4A1", "CD19", "EPCAM", "VIM", "KRT8"]
    symbols += ["PTPRC", "COL1A1", "PECAM1", "CD68", "LYZ", "NKG7", "GFAP", "MBP", "SNAP25", "RELN"]
    adata.var_names = symbols
    model = SToFM(**SMALL, organism="auto").fit(adata, max_steps=3, progress=False)
    assert model.features.genes.str.startswith("ENSG").all()
    mouse = adata.copy()
    mouse.var_names = [name.capitalize() for name in symbols]
    model.embed(mouse)
    assert np.isfinite(mouse.obsm["X_stofm"]).all()
    assert list(mouse.var_names) == [name.capitalize() for name in symbols]  # as they were
    with pytest.raises(ValueError, match="AnnData: no name is a known gene"):
        model.embed(toy_tissue(120, 20, seed=0))


def test_settings_of_the_encoder_are_checked() -> None:
    with pytest.raises(ValueError, match="encoder must be 'pca' or 'panel'; found 'bert'"):
        SToFM(encoder="bert")
    with pytest.raises(ValueError, match="organism must be 'auto', 'human', 'mouse' or None"):
        SToFM(organism="rat")


def test_the_loader_of_puzzles(part, encoder) -> None:
    puzzle = next(iter(puzzles(pieces(part, encoder, **SETTINGS.of_pieces), SETTINGS, 1)))
    z, _ = Network(16, SETTINGS, encoder)(puzzle)
    assert z.shape == (puzzle.num_nodes, 48) and torch.isfinite(z).all()


def test_a_panel_of_fewer_genes_than_components() -> None:
    few = toy_tissue(200, 5, seed=0)
    model = SToFM(**SMALL).fit([few, toy_tissue(200, 40, seed=1)], max_steps=3, progress=False)
    model.embed(few)
    assert np.isfinite(few.obsm["X_stofm"]).all()
    assert all(torch.isfinite(weight).all() for weight in model.network.parameters())
