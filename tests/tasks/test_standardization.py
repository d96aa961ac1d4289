"""Ways to read a slice, and how far it then lies from what is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks import fine_tune
from tests.helpers import SMALL


@pytest.fixture(scope="module")
def slices():
    tissue = toy_tissue(800, 80, 2, seed=1)
    return [tissue[tissue.obs["slice_id"] == name].copy() for name in ("slice1", "slice2")]


@pytest.fixture(scope="module")
def annotator(slices):
    model = SToFM(**SMALL).fit(slices[0], max_steps=4, progress=False)
    return fine_tune(model, slices[0], "region", progress=False)


def surveyed(annotator, adata) -> torch.Tensor:
    (tissue,) = annotator.model.prepared(adata).subslices(annotator.model.encoder)
    return annotator.embed_slice(tissue)


def test_what_was_learned_from_reads_the_same_both_ways(annotator, slices) -> None:
    own, other = annotator.read.candidates(surveyed(annotator, slices[0]))
    torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)
    assert (
        annotator.read.centroid_distance(own)
        < len(own.T)
        < annotator.read.centroid_distance(own + 3)
    )


def test_inputs_that_are_not_used_are_zero(annotator, slices) -> None:
    values = surveyed(annotator, slices[1])
    x = annotator.read(values, annotator.read.moments(values))
    assert ((x == 0).all(dim=0) == (annotator.read.scale == 0)).all()
    sizes = [int(used.sum()) for used in annotator.read.options()]
    niche, denoised = 3 * SMALL["n_components"], 4 * SMALL["n_components"]
    assert sizes == [hops * width for width in (niche, denoised) for hops in (2, 3, 4)]
    assert int((annotator.read.scale > 0).sum()) in sizes


def test_another_platform_is_read_by_its_own_mean(annotator, slices) -> None:
    random = np.random.default_rng(0)
    adata = slices[1].copy()
    gains = random.lognormal(0, 1.5, adata.n_vars)
    adata.X = sp.csr_matrix(random.poisson(gains * adata.X.toarray()).astype(np.float32))
    own, other = annotator.read.candidates(surveyed(annotator, adata))
    assert annotator.read.centroid_distance(other) > 2 * annotator.read.centroid_distance(own)
    found = annotator.probabilities(adata).argmax(axis=1)
    (tissue,) = annotator.model.prepared(adata).subslices(annotator.model.encoder)
    assert (found[tissue.part.row] == annotator.head(own).argmax(dim=1).numpy()).all()


def test_components_keep_their_relative_sizes(annotator, slices) -> None:
    values = surveyed(annotator, slices[1])
    x = annotator.read(values, annotator.read.moments(values))
    read = (annotator.read.scale > 0).numpy()
    for start, end in annotator.read.parts:
        if not read[start]:
            continue
        ratio = x[:, start:end].std(dim=0, correction=0) / values[:, start:end].std(
            dim=0, correction=0
        )
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
        size = x[:, start:end].var(dim=0, correction=0).mean()
        assert float(size) == pytest.approx(1, rel=1e-3)
