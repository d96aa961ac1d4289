"""What training must not be able to learn: where there is nothing to know, nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from stofm_geo import SToFM
from stofm_geo._keys import NodeType
from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.datasets import toy_tissue
from stofm_geo.training.pretraining_loader import pretraining_loader
from tests.helpers import SMALL

STEPS, ASKED = 250, 40


@pytest.fixture(scope="module", params=["pca", pytest.param("panel", marks=pytest.mark.slow)])
def noise(request) -> tuple[SToFM, list]:
    """A model trained on counts of permuted cells, and masked sub-slices of them."""
    adata = toy_tissue(400, 40, seed=0)
    adata.X = adata.X[np.random.default_rng(0).permutation(adata.n_obs)]
    model = SToFM(
        **SMALL,
        encoder=request.param,
        k=8,
        learning_rate=3e-3,
        dropout=0.0,
        mask_ratio=0.3,
        objectives="niches",
    )
    model.fit(adata, max_steps=STEPS, progress=False)
    of_slice = SubSliceDataset(
        split_slices(adata)[0], model.encoder, **model.config.subslice_options
    )
    torch.manual_seed(1)
    return model, list(pretraining_loader(of_slice, model.config, ASKED))


def test_hidden_cells_are_not_known_better_than_the_mean(noise) -> None:
    model, asked = noise
    error, variance = 0.0, 0.0
    with torch.inference_mode():
        for masked in asked:
            z, _ = model.network(masked)
            hidden = masked.mask & masked.core_mask
            # The other columns are means over cells, most of them visible.
            own = slice(SMALL["n_components"])
            if model.network.encoder is None:
                basis = model.network.basis
                found = (z @ basis.t() / basis.square().sum(dim=1))[hidden][:, own]
            else:
                found = model.network.decode_niche(z, masked)[hidden][:, own]
            true = masked.niche[hidden][:, own]
            error += float((found - true).square().sum())
            variance += float((true - true.mean(dim=0)).square().sum())
    assert error > 0.97 * variance


def test_moved_cells_are_not_known_better_than_by_what_is_seen(noise) -> None:
    model, asked = noise
    seen, true, found = [], [], []
    with torch.inference_mode():
        for masked in asked:
            _, pair = model.network(masked)
            src, dst = masked.edge_index
            cells = masked.node_type == NodeType.CELL
            of = (masked.moved[src] | masked.moved[dst]) & cells[src] & cells[dst]
            for values, pos in ((seen, masked.pos), (true, masked.pos_target)):
                values.append((pos[src[of]] - pos[dst[of]]).norm(dim=1).log1p())
            found.append(model.network.distance_head(pair[of]))
    seen, true, found = (torch.cat(part).double().numpy() for part in (seen, true, found))
    best = IsotonicRegression(out_of_bounds="clip").fit(seen, true).predict(seen)
    assert np.square(found - true).mean() > 0.9 * np.square(best - true).mean()
