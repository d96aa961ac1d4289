"""Held-out molecules: a linear start in closed form, no leaks, and something to learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stofm_geo import SToFM
from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.data.molecules import MoleculeSlice
from stofm_geo.data.subslices import collate_subslices
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PanelEncoder, PCAFeatures
from stofm_geo.networks import MoleculeNetwork, SToFMConfig, make_network
from stofm_geo.training.objectives.molecules import MoleculeMasking, fit_linear, molecule_loss
from tests.helpers import CUT, SMALL, make_slice

CONFIG = SToFMConfig(**SMALL, k=8, objectives="molecules")


@pytest.fixture(scope="module")
def items() -> MoleculeSlice:
    part = split_slices(toy_tissue(300, 40, seed=0))[0]
    encoder = PCAFeatures(6).fit_molecules([part.adata])
    return MoleculeSlice(SubSliceDataset(part, encoder, **CONFIG.subslice_options))


def network_of(items: MoleculeSlice) -> MoleculeNetwork:
    torch.manual_seed(0)
    widths = torch.from_numpy(items.subslices.fractions.widths)
    return MoleculeNetwork(6, CONFIG, widths).eval()


def test_the_start_is_the_best_linear_prediction(items) -> None:
    network, masking = network_of(items), MoleculeMasking(CONFIG)
    held_out = [collate_subslices([masking.held_out(items[0])])]
    state = torch.get_rng_state()
    fit_linear(network, items, masking, held_out)
    torch.set_rng_state(state)
    torch.randperm(len(items))
    x, y = [], []
    for _ in range(4):  # draws of one sub-slice
        item = masking.split(items[0])
        core = item.core_mask
        x.append(network.inputs(item)[core, 18:].double().numpy())
        y.append(item.y[core].double().numpy())
    x, y = np.concatenate(x), np.concatenate(y)
    test, errors = held_out[0], {}
    niche = network.inputs(test)[test.core_mask, 18:].numpy()
    true = test.y[test.core_mask].numpy()
    design = np.column_stack([x, np.ones(len(x))])
    for strength in (10, 100, 1e3, 1e4, 1e5, 1e6):
        penalty = strength * np.eye(19)
        itself = strength * np.eye(19, 6)  # the cell's own fractions, as they are
        weight = np.linalg.solve(design.T @ design + penalty, design.T @ y + itself)
        error = network.widths.numpy() * (niche @ weight[:-1] + weight[-1] - true)
        errors[np.square(error).sum()] = weight
    best = errors[min(errors)]
    np.testing.assert_allclose(network.linear.weight.detach().numpy(), best[:-1].T, atol=1e-5)
    np.testing.assert_allclose(network.linear.bias.detach().numpy(), best[-1], atol=1e-5)
    # The Transformer adds nothing yet, whose context is 0.
    with torch.inference_mode():
        z, _ = network(test)
    assert (z[:, slice(*network.columns["context"])] == 0).all()
    assert float(molecule_loss(network, test, z).error) == pytest.approx(min(errors), rel=1e-4)


def test_a_strong_ridge_leaves_what_the_cell_itself_shows(items, monkeypatch) -> None:
    monkeypatch.setattr("stofm_geo.training.objectives.molecules._RIDGES", (1e9,))
    network, masking = network_of(items), MoleculeMasking(CONFIG)
    fit_linear(network, items, masking, [collate_subslices([masking.held_out(items[0])])])
    torch.testing.assert_close(network.linear.weight, torch.eye(6, 18), atol=1e-4, rtol=0)
    # A bias of few cells is decided by one that stands out.
    torch.testing.assert_close(network.linear.bias, torch.zeros(6), atol=1e-4, rtol=0)


def test_an_embedding_is_niche_denoised_features_and_context(items) -> None:
    network = network_of(items)
    assert network.columns == {"niche": (0, 18), "denoised": (18, 24), "context": (24, 32)}
    item = collate_subslices([MoleculeMasking(CONFIG)(items[0])])
    z, _ = network(item)
    torch.testing.assert_close(z[:, :18], network.inputs(item)[:, :18])
    fractions = torch.where(item.mask[:, None], 0, item.fractions)
    torch.testing.assert_close(network.inputs(item)[:, 18:24], fractions)
    assert (z[item.mask][:, :6] == 0).all()  # what a masked cell shows of itself
    with pytest.raises(ValueError, match=r"set out_channels above 32 \(it is 32\)"):
        MoleculeNetwork(8, CONFIG, torch.ones(8))


def test_masked_cells_are_not_asked_for(items) -> None:
    network = network_of(items)
    item = collate_subslices([MoleculeMasking(CONFIG)(items[0])])
    asked = item.core_mask & ~item.mask
    loss = molecule_loss(network, item, network(item)[0])
    assert int(loss.count) == 6 * int(asked.sum()) and item.mask.any()


def test_of_noise_nothing_is_learned() -> None:
    adata = make_slice(400, 30)
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    random = np.random.default_rng(0)
    adata.X = sp.csr_matrix(random.poisson(np.tile(mean, (400, 1))).astype(np.float32))
    model = SToFM(**SMALL, k=8, learning_rate=3e-3, dropout=0.0)
    record = model.fit(adata, max_steps=100, progress=False).training_record
    assert record["molecule_loss"] > 0.97 * record["molecule_loss_of_mean"]
    model.embed(adata, progress=False)
    denoised = model.network.components(adata.obsm["X_stofm"])
    assert np.square(denoised).mean() < 0.05  # the mean, where components have a square of 1


@pytest.mark.slow
def test_the_transformer_predicts_better_than_averages() -> None:
    model = SToFM(**SMALL, learning_rate=3e-3, dropout=0.0)
    record = model.fit(toy_tissue(2000, 100, seed=0), max_steps=300, progress=False).training_record
    assert record["best_step"] > 0
    assert record["molecule_loss"] < record["molecule_loss_of_averages"]
    assert record["molecule_loss_of_averages"] < 0.9 * record["molecule_loss_of_mean"]


def test_the_objective_of_what_has_no_molecules() -> None:
    adata = make_slice(60)
    adata.obsm["X_pca"] = adata.X[:, :5].toarray().astype(np.float32)
    model = SToFM(**SMALL).fit(adata, use_rep="X_pca", max_steps=1, progress=False)
    assert model.config.objectives == "niches" and "niche_loss" in model.training_record
    model.fit(adata, max_steps=1, progress=False)  # of counts again
    assert model.config.objectives == "molecules"
    asked = SToFM(**SMALL, objectives="molecules")
    with pytest.raises(ValueError, match="cannot hold out molecules: features are not the princ"):
        asked.fit(adata, use_rep="X_pca", progress=False)
    adata.X = sp.csr_matrix(adata.X * 0.5)
    with pytest.raises(ValueError, match="cannot hold out molecules: counts are not whole"):
        asked.fit(adata, progress=False)
    with pytest.warns(UserWarning, match="counts are not whole numbers: molecules cannot be held"):
        model.fit(adata, max_steps=1, progress=False)
    assert model.config.objectives == "niches"


def test_a_panel_network_starts_from_what_a_cell_shows_itself() -> None:
    part = split_slices(toy_tissue(300, 40, seed=0))[0]
    encoder = PanelEncoder(
        sorted(part.adata.var_names), 6, n_components=CUT["n_components"], molecules=True
    )
    config = SToFMConfig(**SMALL, k=8, objectives="molecules", encoder="panel")
    torch.manual_seed(0)
    network = make_network(config, encoder)
    items = MoleculeSlice(SubSliceDataset(part, encoder, **CUT))
    batch = collate_subslices([MoleculeMasking(config)(items[i]) for i in (0, 1)])
    z, _ = network(batch)
    assert torch.equal(network.predicted(z, batch), batch.fractions)
    loss = molecule_loss(network, batch, z)
    asked = batch.core_mask & ~batch.mask
    error = items.subslices.fractions.widths * (batch.fractions - batch.y)[asked].numpy()
    assert float(loss.error) == pytest.approx(float(np.square(error).sum()), rel=1e-5)
    loss.error.backward()
    assert network.project.weight.grad.abs().sum() > 0
    # In components of the slice: what two sub-slices of it give together, they give alone.
    alone = network(collate_subslices([MoleculeMasking(config)(items[0])]))[0]
    assert alone.shape[1] == z.shape[1] == 32


def test_a_panel_model_of_molecules_is_trained_and_stored(tmp_path) -> None:
    slices = [toy_tissue(300, 40, seed=0), toy_tissue(250, 40, seed=1)[:, 10:].copy()]
    model = SToFM(**SMALL, k=8, encoder="panel", objectives="molecules")
    record = model.fit(slices, max_steps=20, progress=False).training_record
    assert record["molecule_loss"] <= record["molecule_loss_of_averages"]
    assert record["molecule_loss_of_averages"] < record["molecule_loss_of_mean"]
    model.save_pretrained(tmp_path)
    again = SToFM.from_pretrained(tmp_path)
    for adata in slices:
        model.embed(adata, progress=False)
        again.embed(adata, key_added="again", progress=False)
        np.testing.assert_array_equal(adata.obsm["again"], adata.obsm["X_stofm"])
    order = np.random.default_rng(0).permutation(300)
    shuffled = slices[0][order, np.arange(40)[::-1]].copy()
    again.embed(shuffled, progress=False)
    np.testing.assert_array_equal(shuffled.obsm["X_stofm"], slices[0].obsm["X_stofm"][order])
    slices[0].X = slices[0].X * 0.5
    with pytest.raises(ValueError, match="only of whole counts"):
        model.embed(slices[0], progress=False)
