"""Molecules that are held out: nothing of them is in what a network sees."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stofm_geo._keys import NodeType
from stofm_geo.data import SubSliceDataset, split_slices
from stofm_geo.data.molecules import MoleculeSlice
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PCAFeatures
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import HELD_OUT, hold_out, split_counts
from tests.helpers import CUT, make_slice


@pytest.fixture(scope="module")
def molecules() -> MoleculeSlice:
    part = split_slices(toy_tissue(300, 40, seed=0))[0]
    encoder = PCAFeatures(6).fit_molecules([part.adata])
    return MoleculeSlice(SubSliceDataset(part, encoder, **CUT))


def test_the_parts_sum_to_the_counts_of_the_cells(molecules) -> None:
    assert len(molecules) > 3
    for subslice in molecules:
        own = subslice.molecules
        cells = subslice.node_type == NodeType.CELL
        assert len(own.total) == int(cells.sum())
        rows = subslice.n_id[cells].numpy()
        counts = molecules.subslices.part.adata.X
        order = np.argsort(molecules.subslices.part.row)[rows]
        assert ((own.train + own.held_out) != counts[order]).nnz == 0
        np.testing.assert_array_equal(own.total, np.asarray(counts[order].sum(axis=1)).ravel())


def test_what_is_shown_depends_on_the_visible_molecules_alone(molecules) -> None:
    subslice = molecules[0]
    own = subslice.molecules
    target, visible = split_counts(own.train, 0.3, np.random.default_rng(1))
    item = own.split(subslice, 0.3, np.random.default_rng(1))
    n = len(own.total)
    np.testing.assert_allclose(item.x[:n], own.components(visible), atol=1e-6)
    seen = own.fractions.expected(visible)
    np.testing.assert_allclose(item.fractions[:n], seen, atol=1e-5)
    assert (item.fractions[:n][seen == 0] == 0).all() and (item.fractions[n:] == 0).all()
    asked = own.fractions(target, 0.3 * (1 - HELD_OUT) * own.total)
    np.testing.assert_array_equal(item.y[:n], asked)
    assert (item.y[n:] == 0).all()
    assert torch.equal(subslice.x, molecules[0].x)  # not changed in place


def test_macro_nodes_hold_nothing_of_what_is_held_out(molecules) -> None:
    subslices = molecules.subslices
    x = torch.from_numpy(subslices.components(molecules.train))
    n = len(x)
    for subslice in molecules:
        assert len(subslices) > 1
        virtual = subslice.x[subslice.node_type != NodeType.CELL]
        for i, node in enumerate(range(n, subslices.graph.num_nodes)):
            if subslices.graph.node_type[node] == NodeType.MACRO:
                mean = x[subslices.graph.cluster[:n] == node].mean(dim=0)
                torch.testing.assert_close(virtual[i], mean, atol=1e-5, rtol=1e-4)


def test_macro_nodes_are_means_of_what_is_shown(molecules) -> None:
    # A sub-slice of the whole slice, so that all cells of a cluster are in it.
    whole = SubSliceDataset(
        molecules.subslices.part, molecules.subslices._encoder, **{**CUT, "cells_per_subslice": 999}
    )
    (subslice,) = MoleculeSlice(whole)
    own = subslice.molecules
    item = own.validation(subslice)
    n = len(own.total)
    np.testing.assert_array_equal(item.fractions[:n], own.fractions.expected(own.train))
    asked = own.fractions(own.held_out, HELD_OUT * own.total)
    np.testing.assert_array_equal(item.y[:n], asked)
    for node in torch.nonzero(item.node_type == NodeType.MACRO).view(-1):
        cells = item.cluster == node
        torch.testing.assert_close(item.x[node], item.x[cells].mean(dim=0), atol=1e-4, rtol=1e-4)
    cls = item.node_type == NodeType.CLS
    assert (item.x[cls] == 0).all()


def test_fractions_are_refused() -> None:
    adata = make_slice(60)
    adata.X = sp.csr_matrix(adata.X * 0.5)
    with pytest.raises(ValueError, match="only of whole counts"):
        PCAFeatures(6).fit_molecules([adata])


def test_an_encoder_has_not_seen_what_is_held_out(molecules) -> None:
    part, encoder = molecules.subslices.part, molecules.subslices._encoder
    train = part.adata.copy()
    train.X = molecules.train
    other = PCAFeatures(6).fit([train])
    np.testing.assert_array_equal(encoder.axes, other.axes)
    parts = [molecules.train], [molecules.held_out]
    expected = FractionComponents.from_counts(*parts, 6)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(encoder.fractions, name), value)


def test_cells_without_counts_of_the_genes_change_no_split(molecules) -> None:
    counts = molecules.subslices.counts
    padded = sp.vstack([counts[:5], sp.csr_matrix((3, counts.shape[1])), counts[5:]], format="csr")
    held_out, _ = hold_out(padded)
    held_out = held_out[np.r_[:5, 8 : padded.shape[0]]]
    assert (held_out != molecules.held_out).nnz == 0
