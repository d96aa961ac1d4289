"""The published objectives on our graphs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stofm_geo import SToFM
from stofm_geo._keys import NodeType
from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.datasets import toy_tissue
from stofm_geo.models.prepare import make_encoder
from stofm_geo.networks import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork, cell_edges
from stofm_geo.training.objectives import PretrainingObjective
from stofm_geo.training.objectives.published import cell_loss, pair_loss
from stofm_geo.training.pretraining_loader import pretraining_loader

PUBLISHED = {
    "objectives": "official",
    "mask_share": 0.12,
    "move_share": 0.12,
    "move_sigma": 5.0,
    "distance_weight": 1.0,
}
SMALL = {"hidden_channels": 32, "heads": 4, "num_layers": 2, "n_components": 8, "k": 8}


@pytest.fixture(scope="module", params=["pca", "panel"])
def asked(request):
    """A network that is not trained, a piece and a batch with its puzzle."""
    settings = SToFMConfig(encoder=request.param, out_channels=48, **SMALL, **PUBLISHED)
    part = split_slices(toy_tissue(600, 40, seed=0))[0]
    torch.manual_seed(0)
    features = make_encoder(settings, None, [part])
    encoder = features if request.param == "panel" else None
    network = SToFMNetwork(features.out_channels, settings, encoder).eval()
    of_slice = SubSliceDataset(part, features, **settings.subslice_options)
    return network, of_slice[0], next(iter(pretraining_loader(of_slice, settings, 1)))


def test_shares_and_what_stays(asked) -> None:
    _, piece, puzzle = asked
    cells = int((piece.node_type == NodeType.CELL).sum())
    assert 0.07 < puzzle.mask.sum() / cells < 0.17
    assert 0.005 < (puzzle.target_mask & ~puzzle.mask).sum() / cells < 0.06
    assert (puzzle.target_mask | ~puzzle.mask).all() and (
        puzzle.distance_mask | ~puzzle.moved
    ).all()
    torch.testing.assert_close(puzzle.x_true, piece.x)
    # As published, neighbours are those before the move.
    assert torch.equal(puzzle.edge_index, piece.edge_index)
    assert torch.equal(puzzle.pos_target, piece.pos) and not torch.equal(puzzle.pos, piece.pos)


def test_losses_against_their_formulas(asked) -> None:
    network, _, puzzle = asked
    z, pair = network(puzzle)
    loss = cell_loss(network, puzzle, z)
    rows = puzzle.target_mask.nonzero().view(-1)
    found = network.predict_features(z, puzzle)[rows]
    cosine = (F.normalize(found) * F.normalize(puzzle.x_true[rows])).sum(dim=1)
    torch.testing.assert_close(loss.error, (1 - cosine).sum())
    assert loss.count == len(rows)

    loss = pair_loss(network, puzzle, pair)
    edges = cell_edges(puzzle)
    wanted = puzzle.distance_mask[edges].any(dim=0)
    true = (puzzle.pos_target[edges[0]] - puzzle.pos_target[edges[1]]).norm(dim=1)[wanted]
    seen = (puzzle.pos[edges[0]] - puzzle.pos[edges[1]]).norm(dim=1)[wanted]
    assert loss.count == wanted.sum()
    torch.testing.assert_close(
        loss.baseline, (seen - true).square().sum().float(), rtol=1e-4, atol=0
    )


def test_training_lowers_both() -> None:
    model = SToFM(**SMALL, **PUBLISHED, dropout=0.0, learning_rate=3e-3)
    model.fit(toy_tissue(500, 60, seed=0), max_steps=120, progress=False)
    record = model.training_record
    # Distances are given away: the neighbours are those before the move.
    assert record["distance_loss"] < 0.2 * record["distance_loss_as_seen"]
    assert record["niche_loss"] < 0.9


def test_the_settings_name_them() -> None:
    assert PretrainingObjective.from_config(SToFMConfig()).niche_loss is not cell_loss
    with pytest.raises(ValueError, match="objectives must be 'niches' or 'official'"):
        SToFMConfig(objectives="published")
