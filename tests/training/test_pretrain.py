"""The objectives: what they ask for, and what they must not give away."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from stofm_geo.data import SubSliceDataset, slice_graph, split_slices
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PCAFeatures
from stofm_geo.models import SToFM
from stofm_geo.networks import NicheNetwork, SToFMConfig
from stofm_geo.networks.stofm import cell_edges
from stofm_geo.nn import niche_features
from stofm_geo.training.objectives.niches import NicheMasking, distance_loss, niche_loss
from stofm_geo.training.pretraining_loader import pretraining_loader
from stofm_geo.training.slice_pretrain import (
    SlicePretraining,
    _held_out,
    pretrain,
    whole_checks,
)
from stofm_geo.training.trainer import adamw_one_cycle
from stofm_geo.transforms import SpatialKNN
from tests.helpers import SMALL, make_slice

SETTINGS = SToFMConfig(**SMALL, k=8)
WIDTH, NICHE = SMALL["out_channels"], 3 * SMALL["n_components"]


@pytest.fixture(scope="module")
def subslices():
    part = split_slices(toy_tissue(300, 40, seed=0))[0]
    return SubSliceDataset(part, PCAFeatures(6).fit([part.adata]), **SETTINGS.subslice_options)


@pytest.fixture
def network() -> NicheNetwork:
    torch.manual_seed(0)
    return NicheNetwork(6, SETTINGS)


def test_niche_against_dense_matrices() -> None:
    torch.manual_seed(0)
    x, visible = torch.randn(5, 3), torch.tensor([True, False, True, True, True])
    edges = torch.tensor([[0, 1, 1, 2, 3, 0], [1, 0, 2, 1, 0, 3]])
    adjacency = torch.zeros(5, 5)
    adjacency[edges[1], edges[0]] = 1
    seen = adjacency * visible
    near = (seen @ x) / seen.sum(1, keepdim=True).clamp_min(1)
    far = (adjacency @ near) / adjacency.sum(1, keepdim=True).clamp_min(1)
    expected = torch.cat([x * visible[:, None], near, 2 * far], dim=1)
    torch.testing.assert_close(niche_features(x, edges, visible), expected)


def test_embeddings_start_at_the_averages_and_keep_their_distances(subslices, network) -> None:
    network.eval()
    z, _ = network(subslices[0])
    true = niche_features(subslices[0].x, cell_edges(subslices[0]))
    torch.testing.assert_close(z, true @ network.basis)
    # More channels than numbers of a niche: the basis keeps inner products, but for one scale.
    true = niche_features(subslices[0].x, cell_edges(subslices[0]))[subslices[0].core_mask]
    z = z[subslices[0].core_mask]
    torch.testing.assert_close(z @ z.T, true @ true.T * (WIDTH / NICHE), atol=1e-3, rtol=1e-4)


def test_hidden_cells_reach_neither_inputs_nor_embeddings(subslices, network) -> None:
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.eval()
    masked = next(iter(pretraining_loader(subslices, SETTINGS, 1)))
    assert masked.mask.any() and (masked.x[masked.mask] == 0).all()
    assert "x_target" not in masked

    # From the start: other features in the hidden cells, the same masks.
    def puzzle_of(subslice):
        torch.manual_seed(3)
        return next(iter(pretraining_loader([subslice], SETTINGS, 1)))

    first = puzzle_of(subslices[0])
    other = subslices[0].clone()
    cells = first.mask.nonzero().view(-1)
    shift = torch.randn(len(cells), 6)
    other.x = other.x.index_add(0, cells, shift)
    size = other.cluster_size[other.cluster[cells]][:, None]
    other.x = other.x.index_add(0, other.cluster[cells], shift / size)  # virtual cells are means
    second = puzzle_of(other)
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(network(first)[0], network(second)[0], atol=1e-4, rtol=1e-4)


def test_the_graph_is_that_of_the_moved_positions(subslices) -> None:
    torch.manual_seed(0)
    masked = next(iter(pretraining_loader(subslices, SETTINGS, 1)))
    assert masked.moved.any()
    src, dst = masked.edge_index
    cells = masked.node_type == 0
    from stofm_geo.transforms.neighbor_search import knn

    rows = cells.nonzero().view(-1)
    found = rows[knn(masked.pos[rows], SETTINGS.k)]
    inside = cells[src] & cells[dst]
    assert set(map(tuple, found.t().tolist())) == set(
        map(tuple, masked.edge_index[:, inside].t().tolist())
    )


def test_losses_have_gradients_and_baselines(subslices, network) -> None:
    torch.nn.init.ones_(network.distance_head[-1].weight)  # from zeros, as it starts, none go on
    masked = next(iter(pretraining_loader(subslices, SETTINGS, 1)))
    z, pair = network(masked)
    niches, distances = niche_loss(network, masked, z), distance_loss(network, masked, pair)
    assert niches.error.item() == pytest.approx(niches.baseline.item())  # before training
    assert niches.count == masked.core_mask.sum() * WIDTH and distances.count > 0
    assert distances.baseline > 0
    (niches.error + distances.error).backward()
    assert network.project.weight.grad.abs().sum() > 0
    assert network.transformer.blocks[0].attention.geometry.radial.mean.grad.abs().sum() > 0


def test_nothing_moved_gives_zero_not_nan(subslices, network) -> None:
    masked = next(iter(pretraining_loader(subslices, SETTINGS, 1)))
    masked.moved = torch.zeros_like(masked.moved)
    _, pair = network(masked)
    assert [float(value) for value in distance_loss(network, masked, pair)] == [0, 0, 0]


@pytest.mark.slow
def test_training_beats_the_averages() -> None:
    sizes = {"hidden_channels": 64, "num_layers": 2, "objectives": "niches"}
    model = SToFM(**sizes, dropout=0.0, learning_rate=2e-3)
    model.fit(toy_tissue(500, 60, seed=0), max_steps=150, progress=False)
    record = model.training_record
    assert record["niche_loss"] < 0.97 * record["niche_loss_of_averages"]
    assert record["distance_loss"] < 0.97 * record["distance_loss_as_seen"]


def test_slice_graph_keeps_rows(subslices) -> None:
    part = split_slices(toy_tissue(50, 20, seed=0))[0]
    data = slice_graph(part, PCAFeatures(4).fit([part.adata]))
    assert sorted(data.n_id.tolist()) == list(range(50))


def test_niches_of_core_cells_are_those_of_the_whole_slice() -> None:
    part = split_slices(toy_tissue(300, 40, seed=0))[0]
    features = PCAFeatures(6).fit([part.adata])
    data = SpatialKNN(8)(slice_graph(part, features))
    whole = torch.empty(300, NICHE)
    whole[torch.from_numpy(part.row)] = niche_features(data.x, data.edge_index)
    subslices = SubSliceDataset(
        part, features, **{**SETTINGS.subslice_options, "cells_per_subslice": 60}
    )
    assert len(subslices) == 5
    for masked in pretraining_loader(subslices, SETTINGS, 10):
        core = masked.core_mask
        torch.testing.assert_close(masked.niche[core], whole[masked.n_id[core]])


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 200])
def test_any_number_of_steps_has_a_schedule(steps: int) -> None:
    module = torch.nn.Linear(2, 2)
    module.trainer = SimpleNamespace(estimated_stepping_batches=steps)
    made = adamw_one_cycle(module, 1e-3, 0.0)
    rates = []
    for _ in range(steps):  # as a trainer does, once after the last step, too
        rates.append(made["lr_scheduler"]["scheduler"].get_last_lr()[0])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert min(rates) > 0 or steps > 2
    assert np.isfinite(rates).all()
    assert steps == 1 or max(rates) > 0.9e-3
    if steps > 10:  # as ever
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        usual = OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
        assert usual.get_last_lr()[0] == rates[0]


def test_distances_start_near_their_mean(subslices, network) -> None:
    masked = next(iter(pretraining_loader(subslices, SETTINGS, 1)))
    with torch.no_grad():
        _, pair = network(masked)
        loss = distance_loss(network, masked, pair)
    assert loss.error < loss.baseline  # of believing what is seen


def _training(subslices, monkeypatch, losses: list[float], max_steps: int) -> SlicePretraining:
    """Train on ``subslices``; the checks find these niche losses, the first before training."""
    torch.manual_seed(0)
    module = SlicePretraining(NicheNetwork(6, SETTINGS), SETTINGS)
    left = iter(losses)

    def found(batch, batch_idx: int) -> None:
        module._found.append(torch.tensor([[next(left), 1, 1], [1, 1, 1]]))

    monkeypatch.setattr(module, "validation_step", found)
    assert len(subslices) == 1  # one held-out batch a check
    module.steps = pretrain(module, subslices, max_steps, seed=0, progress=False)
    return module


@pytest.mark.parametrize(
    ("losses", "steps", "best"),
    [
        ([9, 8, 7, 6, 5, 4], 100, 100),  # it goes on falling
        ([9, 8, 7, 7, 7, 7, 7, 7, 7], 140, 40),  # the last of five checks without a gain is the end
        ([5, 9, 9, 9, 9, 9, 9], 120, 0),  # no better than the averages
        ([torch.nan] * 6, 20, 0),
    ],
)
def test_training_ends_when_held_out_masks_are_guessed_no_better(
    subslices, monkeypatch, losses: list[float], steps: int, best: int
) -> None:
    module = _training(subslices, monkeypatch, losses, 20 * (len(losses) - 1))
    assert (module.steps, module.best_step) == (steps, best)
    torch.manual_seed(0)
    untrained = NicheNetwork(6, SETTINGS).project.weight
    assert torch.equal(module.network.project.weight, untrained) == (best == 0)


def test_held_out_masks_change_nothing_of_training(subslices, network) -> None:
    before = torch.get_rng_state()
    masking = NicheMasking(SETTINGS)
    first, second = (_held_out(subslices, masking, seed=3) for _ in range(2))
    masks = [[batch.mask for batch in loader] for loader in (first, first, second)]
    assert all(torch.equal(*pair) for pair in zip(masks[0], masks[1], strict=True))
    assert all(torch.equal(*pair) for pair in zip(masks[0], masks[2], strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "checks", "steps"),
    [(39, 1, 39), (41, 2, 40), (53, 2, 52), (199, 9, 198), (1000, 20, 1000), (1019, 20, 1000)],
)
def test_the_last_step_is_checked(given: int, checks: int, steps: int) -> None:
    assert whole_checks(given) == (steps // checks, steps)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_fit_of_few_steps(steps: int) -> None:
    model = SToFM(**SMALL).fit(make_slice(60), max_steps=steps, progress=False)
    assert model.training_record["steps"] == steps
    assert np.isfinite(model.training_record["molecule_loss"])
