"""The published objectives on our graphs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stofm_geo import SToFM
from stofm_geo._keys import NodeType
from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.datasets import toy_tissue
from stofm_geo.models.prepare import fit_encoder
from stofm_geo.networks import NicheNetwork, SToFMConfig
from stofm_geo.networks.stofm import cell_edges
from stofm_geo.training.objectives import PretrainingObjective
from stofm_geo.training.objectives.published import OfficialMasking, cell_loss, pair_loss
from stofm_geo.training.pretraining_loader import pretraining_loader
from tests.helpers import SMALL

PUBLISHED = {
    "objectives": "official",
    "mask_ratio": 0.12,
    "noise_ratio": 0.12,
    "noise_std": 5.0,
    "distance_weight": 1.0,
}


@pytest.fixture(scope="module", params=["pca", "panel"])
def asked(request):
    """A network that is not trained, a sub-slice and a batch of the masked one."""
    settings = SToFMConfig(encoder=request.param, k=8, **SMALL, **PUBLISHED)
    part = split_slices(toy_tissue(600, 40, seed=0))[0]
    torch.manual_seed(0)
    features = fit_encoder(settings, None, [part])
    encoder = features if request.param == "panel" else None
    network = NicheNetwork(features.out_channels, settings, encoder).eval()
    of_slice = SubSliceDataset(part, features, **settings.subslice_options)
    return network, of_slice[0], next(iter(pretraining_loader(of_slice, settings, 1)))


def test_shares_and_what_stays(asked) -> None:
    _, subslice, masked = asked
    cells = int((subslice.node_type == NodeType.CELL).sum())
    assert 0.07 < masked.mask.sum() / cells < 0.17
    assert 0.005 < (masked.target_mask & ~masked.mask).sum() / cells < 0.06
    assert (masked.target_mask | ~masked.mask).all() and (
        masked.distance_mask | ~masked.moved
    ).all()
    torch.testing.assert_close(masked.x_true, subslice.x)
    # As published, neighbours are those before the move.
    assert torch.equal(masked.edge_index, subslice.edge_index)
    assert torch.equal(masked.pos_target, subslice.pos) and not torch.equal(
        masked.pos, subslice.pos
    )


def test_losses_against_their_formulas(asked) -> None:
    network, _, masked = asked
    z, pair = network(masked)
    loss = cell_loss(network, masked, z)
    rows = masked.target_mask.nonzero().view(-1)
    found = network.predict_features(z, masked)[rows]
    cosine = (F.normalize(found) * F.normalize(masked.x_true[rows])).sum(dim=1)
    torch.testing.assert_close(loss.error, (1 - cosine).sum())
    assert loss.count == len(rows)

    loss = pair_loss(network, masked, pair)
    edges = cell_edges(masked)
    wanted = masked.distance_mask[edges].any(dim=0)
    true = (masked.pos_target[edges[0]] - masked.pos_target[edges[1]]).norm(dim=1)[wanted]
    seen = (masked.pos[edges[0]] - masked.pos[edges[1]]).norm(dim=1)[wanted]
    assert loss.count == wanted.sum()
    torch.testing.assert_close(
        loss.baseline, (seen - true).square().sum().float(), rtol=1e-4, atol=0
    )


@pytest.mark.slow
def test_training_lowers_both() -> None:
    model = SToFM(**SMALL, **PUBLISHED, k=8, dropout=0.0, learning_rate=3e-3)
    model.fit(toy_tissue(500, 60, seed=0), max_steps=120, progress=False)
    record = model.training_record
    # Distances are given away: the neighbours are those before the move.
    assert record["distance_loss"] < 0.2 * record["distance_loss_as_seen"]
    assert record["niche_loss"] < 0.9


def test_the_settings_name_them() -> None:
    official = PretrainingObjective.from_config(SToFMConfig(objectives="official"))
    assert isinstance(official.masking, OfficialMasking)
    with pytest.raises(ValueError, match="one of 'molecules', 'niches', 'official' or None"):
        SToFMConfig(objectives="published")
