from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.data import slice_graph, split_slices
from stofm_geo.genes import PCAFeatures
from stofm_geo.transforms import (
    JoinMacroNodes,
    MacroNodes,
    MaskCells,
    SpatialDelaunay,
    SpatialKNN,
    SubSlices,
)
from tests.helpers import make_slice, turned, unchanged


def tissue(pos: np.ndarray, **more: torch.Tensor) -> Data:
    """Bands along x with different features, and noise."""
    rng = np.random.default_rng(0)
    band = (4 * (pos[:, 0] - pos[:, 0].min()) / np.ptp(pos[:, 0])).astype(int)
    x = torch.from_numpy(np.eye(6)[band] * 3 + rng.normal(size=(len(pos), 6))).float()
    data = Data(x=x, pos=torch.from_numpy(pos), n_id=torch.arange(len(pos)), **more)
    return SpatialKNN(6)(data)


def scattered(n: int = 400) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 20, (n, 2))


def test_input_stays_as_it_was() -> None:
    data = tissue(scattered())
    with unchanged(data):
        assert MacroNodes()(data) is not data


@pytest.mark.parametrize("max_nodes", range(1, 17))
def test_the_cap_holds(max_nodes: int) -> None:
    # Many components: each is a community of its own at least.
    pos = np.concatenate([scattered(30) / 20 + [50 * i, 0] for i in range(20)])
    data = SpatialKNN(3)(Data(x=torch.rand(600, 5), pos=torch.from_numpy(pos)))
    out = MacroNodes(max_nodes=max_nodes)(data)
    assert (out.node_type == NodeType.MACRO).sum() == max_nodes
    assert (out.cluster_size[out.node_type == NodeType.MACRO] > 0).all()


def test_below_the_cap_leiden_decides() -> None:
    few = MacroNodes(resolution=0.1, max_nodes=100)(tissue(scattered()))
    many = MacroNodes(resolution=5, max_nodes=100)(tissue(scattered()))
    count = [(d.node_type == NodeType.MACRO).sum() for d in (few, many)]
    assert 1 <= count[0] < count[1] <= 100


def test_clusters_follow_the_features() -> None:
    data = tissue(scattered(800))
    data.x *= 3
    out = MacroNodes()(data)
    band = (data.pos[:, 0] / 20 * 4).long().clamp_max(3)
    pure = 0
    for node in (out.node_type == NodeType.MACRO).nonzero().view(-1):
        pure += torch.bincount(band[out.cluster[:800] == node]).max()
    assert pure / 800 > 0.85


def test_nodes_are_means_of_their_cells_and_cls_is_blank() -> None:
    data = tissue(scattered())
    out = MacroNodes(max_nodes=5)(data)
    n = data.num_nodes
    kind = out.node_type
    assert (kind[:n] == NodeType.CELL).all() and kind[n] == NodeType.CLS
    assert (kind[n + 1 :] == NodeType.MACRO).all()
    assert torch.equal(out.x[:n], data.x) and torch.equal(out.pos[:n], data.pos)
    assert (out.x[n] == 0).all()
    torch.testing.assert_close(out.pos[n], data.pos.mean(dim=0))
    assert out.x.dtype == torch.float32 and out.pos.dtype == torch.float64
    assert (out.cluster[n:] == -1).all() and (out.cluster_size[: n + 1] == 0).all()
    assert set(out.cluster[:n].tolist()) == set(range(n + 1, out.num_nodes))
    for node in range(n + 1, out.num_nodes):
        cells = out.cluster == node
        assert out.cluster_size[node] == cells.sum()
        torch.testing.assert_close(out.x[node], out.x[cells].mean(dim=0))
        torch.testing.assert_close(out.pos[node], out.pos[cells].mean(dim=0))
    assert torch.equal(out.n_id, torch.cat([data.n_id, torch.full((out.num_nodes - n,), -1)]))


def edge_set(data: Data) -> set[tuple[int, int]]:
    return set(map(tuple, data.edge_index.t().tolist()))


def test_virtual_nodes_are_joined_to_all_both_ways() -> None:
    data = tissue(scattered(60))
    data.edge_attr = torch.rand(data.num_edges)
    out = MacroNodes(max_nodes=4)(data)
    n, total = data.num_nodes, out.num_nodes
    virtual = {(a, b) for a in range(total) for b in range(n, total) if a != b}
    virtual |= {(b, a) for a, b in virtual}
    assert edge_set(out) == edge_set(data) | virtual
    code = out.edge_index[1] * total + out.edge_index[0]
    assert (code[1:] > code[:-1]).all()
    assert out.edge_attr is None


def test_each_slice_has_its_own(places) -> None:
    pos = scattered(300)
    which = torch.from_numpy(np.random.default_rng(2).choice([2, 5, 9], 300))
    out = MacroNodes(max_nodes=3)(tissue(pos, slice_id=which))
    assert (out.node_type == NodeType.CLS).sum() == 3
    assert len(out.slice_id) == len(out.cluster) == len(out.cluster_size) == out.num_nodes
    src, dst = out.edge_index
    assert (out.slice_id[src] == out.slice_id[dst]).all()
    cells = out.cluster >= 0
    assert (out.slice_id[out.cluster[cells]] == out.slice_id[cells]).all()
    for s in (2, 5, 9):
        alone = MacroNodes(max_nodes=3)(tissue(pos, slice_id=which).subgraph(which == s))
        here = out.subgraph(out.slice_id == s)
        torch.testing.assert_close(here.x, alone.x)
        torch.testing.assert_close(here.pos, alone.pos)
        assert edge_set(here) == edge_set(alone)
    virtual = (out.node_type[300:] == NodeType.CLS).nonzero().view(-1)
    assert virtual[0] == 0  # a slice's CLS comes before its virtual cells


@pytest.mark.parametrize("place", ["square", "hexagonal", "anisotropic", "holed", "random"])
def test_turning_and_shifting_changes_no_cluster(places, place: str) -> None:
    pos = places[place]
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(len(pos), 8))).float()
    for graph in (SpatialKNN(6), SpatialDelaunay()):
        transform = Compose([graph, MacroNodes()])
        expected = transform(Data(x=x, pos=torch.from_numpy(pos)))
        for angle, shift in [(0.3, 0), (np.pi / 2, 1e3), (2.5, 1e5), (np.pi, -1e4)]:
            out = transform(Data(x=x, pos=torch.from_numpy(turned(pos, angle, shift))))
            assert torch.equal(out.cluster, expected.cluster)
            assert torch.equal(out.x, expected.x)
            assert torch.equal(out.edge_index, expected.edge_index)


@pytest.mark.parametrize("place", ["hexagonal", "random", "doubled"])
def test_sorting_anew_changes_nothing_in_the_slices_frame(places, place: str) -> None:
    adata = make_slice(pos=places[place], seed=4)
    order = np.random.default_rng(5).permutation(adata.n_obs)
    results = []
    for one in (adata, adata[order].copy()):
        [part] = split_slices(one)
        data = slice_graph(part, PCAFeatures(5).fit([part.adata]))
        results.append(Compose([SpatialKNN(6), MacroNodes(max_nodes=4)])(data))
    first, second = results
    for key in ("x", "pos", "edge_index", "cluster", "node_type"):
        assert torch.equal(first[key], second[key]), key
    cells = first.n_id >= 0
    rows = first.n_id[cells].numpy(), second.n_id[cells].numpy()
    names = [adata.obs_names[rows[0]], adata.obs_names[order][rows[1]]]
    if place != "doubled":
        assert names[0].equals(names[1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_cells(n: int) -> None:
    data = SpatialKNN()(Data(x=torch.rand(n, 4), pos=torch.rand(n, 2)))
    out = MacroNodes()(data)
    assert out.x.isfinite().all() and out.pos.isfinite().all()
    assert (out.cluster[:n] > n).all()


def test_alike_cells_and_no_edges() -> None:
    pos = torch.rand(30, 2)
    alike = MacroNodes()(SpatialKNN(4)(Data(x=torch.ones(30, 4), pos=pos)))
    assert alike.x.isfinite().all() and alike.cluster_size.sum() == 30
    alone = Data(x=torch.rand(30, 4), pos=pos, edge_index=torch.empty(2, 0, dtype=torch.long))
    assert (MacroNodes(max_nodes=4)(alone).node_type == NodeType.MACRO).sum() == 4


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_means_of_whole_numbers_are_not_cut(dtype: torch.dtype) -> None:
    data = tissue(scattered(60))
    data.x = (5 * data.x.abs()).round()
    expected = MacroNodes(max_nodes=4)(data)
    assert not torch.equal(expected.x, expected.x.round())
    data.x = data.x.to(dtype)
    found = MacroNodes(max_nodes=4)(data)
    assert found.x.dtype == torch.float32 and torch.equal(found.x, expected.x)


def test_sums_of_half_precision_do_not_overflow() -> None:
    data = tissue(scattered(2000))
    data.x = torch.full((2000, 3), 250.0, dtype=torch.float16)  # 65504 is the most it holds
    whole = MacroNodes(max_nodes=2)(data)
    assert whole.x.dtype == torch.float16
    hidden = MaskCells(0.3)(whole)
    macro = whole.node_type == NodeType.MACRO
    assert (whole.x[macro] == 250).all() and (hidden.x[macro] == 250).all()


def test_no_cells_no_nodes() -> None:
    empty = SpatialKNN()(Data(x=torch.rand(0, 4), pos=torch.rand(0, 2)))
    out = MacroNodes()(empty)
    assert out.num_nodes == len(out.node_type) == len(out.cluster) == out.num_edges == 0


def test_same_seed_same_clusters_whatever_was_drawn_before() -> None:
    data = tissue(scattered())
    first = MacroNodes(seed=3)(data)
    np.random.default_rng().random(5)
    torch.rand(5)
    assert torch.equal(first.cluster, MacroNodes(seed=3)(data).cluster)


def test_errors() -> None:
    data = Data(x=torch.rand(5, 2), pos=torch.rand(5, 2))
    with pytest.raises(ValueError, match=r"needs data.edge_index; run SpatialKNN\(\) first"):
        MacroNodes()(data)
    with pytest.raises(ValueError, match=r"needs data.x; clusters are computed from features"):
        MacroNodes()(SpatialKNN(2)(Data(pos=data.pos)))
    with pytest.raises(ValueError, match="already has virtual nodes"):
        MacroNodes()(MacroNodes()(SpatialKNN(2)(data)))
    with pytest.raises(ValueError, match="max_nodes must be above zero; found 0"):
        MacroNodes(max_nodes=0)
    with pytest.raises(TypeError, match=r"max_nodes must be a whole number; found 2.5"):
        MacroNodes(max_nodes=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resolution must be above zero"):
        MacroNodes(resolution=0)


@pytest.mark.parametrize("slices", [1, 3])
def test_joining_later_is_the_same(slices: int) -> None:
    data = tissue(scattered())
    if slices > 1:
        data.slice_id = torch.arange(400) % slices
        data = SpatialKNN(6)(data)
    whole, later = MacroNodes()(data), MacroNodes(join=False)(data)
    assert torch.equal(later.edge_index, data.edge_index)
    for name in (later := JoinMacroNodes()(later)).keys():
        assert torch.equal(whole[name], later[name])
    assert set(whole.keys()) == set(later.keys())


def test_virtual_nodes_are_joined_once() -> None:
    data = tissue(scattered())
    with pytest.raises(ValueError, match=r"run MacroNodes\(join=False\) first"):
        JoinMacroNodes()(data)
    with pytest.raises(ValueError, match="already have edges"):
        JoinMacroNodes()(MacroNodes()(data))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_must_be_finite(value: float) -> None:
    data = tissue(scattered())
    data.x[[3, 70], 1] = value
    with pytest.raises(ValueError, match=r"data.x is NaN or infinite for 2 of 400 cells \(node 3"):
        MacroNodes()(data)


@pytest.mark.parametrize("graphs", [1, 2])
def test_attributes_of_nodes_are_extended(graphs: int) -> None:
    """Labels and masks stay those of the cells, in sub-slices, too, and edges lose attributes."""
    tissues = [tissue(scattered()) for _ in range(graphs)]
    for data in tissues:
        data.y, data.weight = torch.arange(400), torch.rand(400, 2)
        data.train_mask = torch.arange(400) < 200
        data.edge_attr = torch.rand(data.num_edges, 3)
        data.organ = "brain"
    data = tissues[0] if graphs == 1 else Batch.from_data_list(tissues)
    found = MacroNodes()(data)
    assert data.y.shape == (400 * graphs,) and "edge_attr" not in found
    cells = found.node_type == 0
    for name in ("y", "weight", "train_mask"):
        assert len(found[name]) == found.num_nodes
        torch.testing.assert_close(found[name][cells], data[name])
    assert (found.y[~cells] == -1).all() and found.weight[~cells].isnan().all()
    assert not found.train_mask[~cells].any()
    if graphs == 1:
        parts = Batch.from_data_list(SubSlices(num_cells=130)(found))
        core = parts.core_mask
        assert torch.equal(parts.y[core].sort().values, torch.arange(400))
