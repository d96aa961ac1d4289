"""Sub-slices that went through a disk are those that did not."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from stofm_geo._keys import NodeType
from stofm_geo.data import TissueSlice, split_slices
from stofm_geo.data.corpus import CorpusDataset, build, find_sources
from stofm_geo.data.molecules import MoleculeSlice
from stofm_geo.data.subslices import SubSliceDataset, collate_subslices
from stofm_geo.genes import PanelEncoder, harmonize
from stofm_geo.nn import niche_features
from stofm_geo.transforms import SpatialKNN
from tests.helpers import CUT, make_slice


def in_memory(dataset: CorpusDataset, slices: dict[str, TissueSlice], settings: dict) -> list:
    encoder = PanelEncoder(dataset.genes, 4, technologies=dataset.technologies)
    return [
        subslice
        for folder in dataset.slices
        for subslice in SubSliceDataset(slices[folder.rsplit("-", 1)[0]], encoder, **settings)
    ]


def check_alike(dataset: CorpusDataset, expected: list) -> None:
    assert len(dataset) == len(expected)
    for i, subslice in enumerate(expected):
        found = dataset[i]
        assert sorted(found.keys()) == sorted(subslice.keys())
        assert found.num_nodes == subslice.num_nodes == dataset.num_nodes[i]
        for name, value in subslice:
            assert name == "num_nodes" or (
                torch.equal(value, found[name]) and value.dtype == found[name].dtype
            ), name


def test_the_same_pieces_as_in_memory(corpus, sources) -> None:
    slices = {}
    for file, name in (("one", "one"), ("three", "three"), ("tiny_panel", "tiny-panel")):
        adata = anndata.read_h5ad(sources / f"{file}.h5ad")
        for part, of in zip(
            split_slices(adata, slice_key="slice_id"),
            sorted(adata.obs["slice_id"].unique()),
            strict=True,
        ):
            part.adata.uns["technology"] = adata.uns.get("technology", "")
            slices[f"{name}-{of}"] = part
    dataset = CorpusDataset(corpus)
    assert dataset.technologies == ["toy"]
    assert len(dataset.genes) == 40
    check_alike(dataset, in_memory(dataset, slices, CUT))


def test_the_same_molecules_as_in_memory(sources, tmp_path) -> None:
    found = find_sources([sources / "one.h5ad"], slice="slice_id", organism="none")
    assert build(found, tmp_path / "c", **CUT, molecules=True) == []
    dataset = CorpusDataset(tmp_path / "c")
    part = split_slices(anndata.read_h5ad(sources / "one.h5ad"))[0]
    encoder = PanelEncoder(dataset.genes, 4, technologies=dataset.technologies, molecules=True)
    every = MoleculeSlice(SubSliceDataset(part, encoder, **CUT))
    assert len(dataset) == len(every) > 1
    for stored, item in zip(dataset, every, strict=True):
        ours, theirs = item.molecules, stored.molecules
        assert (ours.train != theirs.train).nnz == (ours.held_out != theirs.held_out).nnz == 0
        cells = item.node_type == NodeType.CELL
        rows = item.n_id[cells].numpy()
        counts = part.adata.X[np.argsort(part.row)[rows]]
        assert ((theirs.train + theirs.held_out) != counts).nnz == 0
        np.testing.assert_array_equal(ours.total, theirs.total)
        for name in ("x", "pos", "edge_index", "panel", "loadings", "fraction_loadings", "widths"):
            assert torch.equal(item[name], stored[name]), name
        # Outside training, all molecules are seen; a corpus has no such sub-slices.
        shown = [own.validation(one) for own, one in ((ours, item), (theirs, stored))]
        assert torch.equal(shown[0].fractions, shown[1].fractions)
        assert torch.equal(shown[0].y, shown[1].y) and (shown[0].y != 0).any()
        assert torch.equal(stored.fractions, shown[1].fractions)


def test_molecules_of_fractions_are_refused(tmp_path) -> None:
    adata = make_slice(120)
    adata.X = adata.X * 0.5
    adata.write_h5ad(tmp_path / "fractions.h5ad")
    found = find_sources([tmp_path / "fractions.h5ad"], organism="none")
    with pytest.raises(ValueError, match="no slice could be built"):
        build(found, tmp_path / "c", **CUT, molecules=True)
    assert "only of whole counts" in (tmp_path / "c" / "failed.csv").read_text()


def test_niches_of_core_cells_are_those_of_the_slice(corpus, sources) -> None:
    part = split_slices(anndata.read_h5ad(sources / "one.h5ad"))[0]
    dataset = CorpusDataset(corpus, [CorpusDataset(corpus).slices[0]])
    encoder = PanelEncoder(dataset.genes, 4)
    whole = SubSliceDataset(part, encoder, **{**CUT, "cells_per_subslice": 10_000})[0]
    expected = niche_features(whole.x, cells_edges(whole))
    row = {int(n): i for i, n in enumerate(whole.n_id) if n >= 0}
    seen, otherwise = [], 0.0
    for subslice in dataset:
        core = subslice.core_mask.nonzero().view(-1)
        mine = expected[[row[int(n)] for n in subslice.n_id[core]]]
        torch.testing.assert_close(niche_features(subslice.x, cells_edges(subslice))[core], mine)
        again = SpatialKNN(CUT["k"])(subslice.clone())  # what the kept edges are for
        otherwise += float((niche_features(again.x, cells_edges(again))[core] - mine).abs().max())
        seen += subslice.n_id[core].tolist()
    assert sorted(seen) == sorted(row)
    assert otherwise > 0.01


def cells_edges(data) -> torch.Tensor:
    cells = data.node_type == NodeType.CELL
    return data.edge_index[:, cells[data.edge_index].all(dim=0)]


def test_pieces_of_any_panels_go_into_one_batch(corpus) -> None:
    dataset = CorpusDataset(corpus)
    several = [dataset[0], dataset[len(dataset) - 1]]
    batch = collate_subslices(several)
    assert batch.x.shape[1] == 5 and batch.num_graphs == 2
    assert [len(panel) for panel in batch.panel] == [28, 4]
    assert not several[1].x[:, 4:].any()  # four genes have three components
    assert batch.technology.tolist() == [0, 0]


def test_fractions_stay_what_they_are(tmp_path) -> None:
    adata = make_slice(120)
    adata.X = adata.X.astype(np.float32)
    adata.X.data *= np.random.default_rng(0).uniform(5, 20, adata.X.nnz).astype(np.float32)
    adata.var_names = [f"gene{i:02d}" for i in range(12)]
    adata.write_h5ad(tmp_path / "fractions.h5ad")
    build(find_sources([tmp_path / "fractions.h5ad"], organism="none"), tmp_path / "c", **CUT)
    dataset = CorpusDataset(tmp_path / "c")
    check_alike(dataset, in_memory(dataset, {"fractions": split_slices(adata)[0]}, CUT))


@pytest.mark.slow
@pytest.mark.shared
def test_real_slices(shared_data, tmp_path) -> None:
    settings = {**CUT, "cells_per_subslice": 1000, "n_components": 30}
    names = ("xenium_breast_voltron", "starmap_visp_1020", "st_mouse_olfactory_bulb")
    files = [shared_data / f"{name}.h5ad" for name in names]
    assert build(find_sources(files), tmp_path / "c", **settings) == []
    dataset = CorpusDataset(tmp_path / "c")
    slices = {
        name.replace("_", "-"): split_slices(harmonize(anndata.read_h5ad(file)))[0]
        for name, file in zip(names, files, strict=True)
    }
    with threadpool_limits(1):  # as a build has: the last bits of sums depend on it
        expected = in_memory(dataset, slices, settings)
    check_alike(dataset, expected)
