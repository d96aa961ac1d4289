"""Batches as people have them: changed after collation, of real sizes, of many graphs."""

from __future__ import annotations

import time

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

import stofm_geo.transforms as T
from stofm_geo._keys import NodeType


def graph(n: int, seed: int = 0) -> Data:
    draw = torch.Generator().manual_seed(seed)
    pos = torch.rand(n, 2, generator=draw, dtype=torch.float64) * n**0.5
    return Data(x=torch.randn(n, 6, generator=draw), pos=pos)


def same(found: Data, expected: Data) -> None:
    assert sorted(found.keys()) == sorted(expected.keys())
    for key, value in expected:
        assert torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value


def test_in_the_loop_of_a_loader() -> None:
    parts = [T.SpatialKNN(4)(graph(n, n)) for n in (30, 1, 0, 22, 35, 8)]
    transform = Compose([T.NormalizePositions(), T.SpatialDelaunay(), T.MacroNodes(max_nodes=2)])
    found = [transform(batch) for batch in DataLoader(parts, batch_size=4)]
    expected = [transform(part) for part in parts]
    assert [batch.num_graphs for batch in found] == [4, 2]
    for batch in found:
        assert torch.equal(batch.batch.bincount(minlength=batch.num_graphs), batch.ptr.diff())
        assert int(batch.ptr[-1]) == batch.num_nodes == len(batch.batch)
    for one, other in zip((g for b in found for g in b.to_data_list()), expected, strict=True):
        same(one, other)


def test_real_sizes() -> None:
    parts = [graph(4000, seed) for seed in range(3)]
    chain = [
        T.NormalizePositions(),
        T.SpatialKNN(12),
        T.PruneLongEdges(2.0),
        T.MacroNodes(),
        T.MaskCells(0.2),
    ]
    batch = Batch.from_data_list(parts)
    for transform in chain:
        torch.manual_seed(0)
        parts = [transform(part) for part in parts]
        torch.manual_seed(0)
        batch = transform(batch)
        assert (batch.edge_index is None) == (transform is chain[0])
    assert batch.num_edges > 100_000
    assert (batch.edge_index[1].diff() >= 0).all()
    for one, other in zip(batch.to_data_list(), parts, strict=True):
        same(one, other)
    subslices = T.SubSlices(1000)(batch)
    expected = [subslice for part in parts for subslice in T.SubSlices(1000)(part)]
    assert len(subslices) == len(expected) == 12
    for one, other in zip(subslices, expected, strict=True):
        assert torch.equal(one.edge_index, other.edge_index) and torch.equal(one.x, other.x)


@pytest.mark.parametrize("kind", ["graphs", "slices"])
def test_time_is_proportional_to_how_many_there_are(kind: str) -> None:
    def seconds(count: int) -> float:
        if kind == "graphs":
            data = Batch.from_data_list([T.SpatialKNN(3)(graph(6, seed)) for seed in range(count)])
        else:
            data = graph(6 * count)
            data.slice_id = torch.arange(6 * count) // 6
            data = T.SpatialKNN(3)(data)
        start = time.process_time()
        T.JoinMacroNodes()(T.MacroNodes(max_nodes=1, join=False)(T.PruneLongEdges()(data)))
        return time.process_time() - start

    seconds(10)
    few, many = seconds(30), seconds(240)
    assert many < 30 * few  # eight times, and room for a busy machine; 64 times were it quadratic


def test_slices_of_different_graphs_are_different() -> None:
    parts = [graph(40, seed) for seed in range(3)]
    for part in parts:
        part.slice_id = torch.arange(40) % 2
    batch = Batch.from_data_list(parts)
    found = T.MacroNodes(max_nodes=2)(T.SpatialKNN(4)(batch))
    src, dst = found.edge_index
    assert (found.batch[src] == found.batch[dst]).all()
    assert (found.slice_id[src] == found.slice_id[dst]).all()
    assert (found.node_type == NodeType.CLS).sum() == 6
    subslices = T.SubSlices(10)(found)
    assert all(
        len(found.batch[subslice.n_id[subslice.core_mask]].unique()) == 1 for subslice in subslices
    )


def test_pieces_number_nodes_as_the_batch_does() -> None:
    batch = T.SpatialKNN(3)(Batch.from_data_list([graph(n, n) for n in (20, 31)]))
    subslices = T.SubSlices(8)(batch)
    assert sorted(i for p in subslices for i in p.n_id[p.core_mask].tolist()) == list(range(51))
    for subslice in subslices:
        assert torch.equal(subslice.x, batch.x[subslice.n_id])
        assert "n_id" not in batch


def test_what_was_changed_after_collation_is_honoured() -> None:
    parts = [graph(n, n) for n in (20, 31, 25)]
    batch = Batch.from_data_list([T.SpatialKNN(6)(part) for part in parts])
    batch.h = torch.rand(76, 4)  # which to_data_list does not know of
    # Other edges than those that were collated, as any transform of PyG leaves them.
    own = [T.SpatialKNN(3)(part).edge_index for part in parts]
    batch.edge_index = torch.cat([edges + batch.ptr[i] for i, edges in enumerate(own)], dim=1)
    batch.edge_attr = torch.rand(batch.num_edges)
    found = T.PruneLongEdges(1.2)(batch)
    assert found.h is batch.h
    for number, one in enumerate(found.to_data_list()):
        other = T.PruneLongEdges(1.2)(Data(pos=parts[number].pos, edge_index=own[number]))
        assert torch.equal(one.edge_index, other.edge_index)
    subslices = T.SubSlices(10)(batch)
    assert all(torch.equal(subslice.h, batch.h[subslice.n_id]) for subslice in subslices)


def test_follow_batch() -> None:
    parts = [T.SpatialKNN(3)(graph(n, n)) for n in (20, 0, 31)]
    keys = ["x", "edge_index", "edge_attr"]
    for part in parts:
        part.edge_attr = torch.rand(part.num_edges)
    found = T.MacroNodes(max_nodes=2)(Batch.from_data_list(parts, follow_batch=keys))
    expected = [T.MacroNodes(max_nodes=2)(part) for part in parts]
    same(found, Batch.from_data_list(expected, follow_batch=keys[:2]))


def test_num_nodes_that_is_told() -> None:
    parts = [T.SpatialKNN(3)(graph(n, n)) for n in (20, 31)]
    for part in parts:
        part.num_nodes = len(part.x)
    expected = [T.MacroNodes(max_nodes=2)(part) for part in parts]
    assert all(part.num_nodes == len(part.x) == len(part.cluster_size) for part in expected)
    found = T.MacroNodes(max_nodes=2)(Batch.from_data_list(parts))
    assert found.num_nodes == sum(part.num_nodes for part in expected)
    for one, other in zip(found.to_data_list(), expected, strict=True):
        same(one, other)


def test_attributes_of_edges_that_go_go_with_them() -> None:
    data = T.SpatialKNN(3)(graph(20))
    data.edge_attr, data.edge_weight = torch.rand(data.num_edges, 2), torch.rand(data.num_edges)
    for one in (data, Batch.from_data_list([data, data])):
        assert T.PruneLongEdges(1.1)(one).edge_weight.numel() < one.num_edges
        for transform in (T.SpatialKNN(2), T.MacroNodes()):
            out = transform(one)
            assert out.edge_attr is None and "edge_weight" not in out


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"each of 4 nodes, \[4\]; found torch.int64 \[3\]"),
        (torch.zeros(4), r"data\.batch must hold the graph index .*; found torch.float32 \[4\]"),
        (torch.tensor([0, 0, -1, 0]), "must be 0 or more; found -1"),
        ([0, 0, 1, 1], r"data\.batch must hold the graph index .*; found \[0, 0, 1, 1\]"),
        (
            torch.tensor([0, 0, 1, 1]),
            "1 of 2 edges join nodes of different graphs, such as 1 and 2, of graphs 0 and 1 by "
            r"data\.batch; build the edges of each graph before batching",
        ),
    ],
)
def test_batches_that_do_not_fit(batch, message: str) -> None:
    data = Data(pos=torch.rand(4, 2), edge_index=torch.tensor([[0, 1], [1, 2]]), batch=batch)
    with pytest.raises(ValueError, match=message):
        T.SpatialKNN(2)(data)


def test_gradients_reach_each_graph() -> None:
    batch = Batch.from_data_list([graph(5, seed) for seed in range(2)])
    batch.pos.requires_grad_()
    T.RandomSE2()(T.NormalizePositions()(batch)).pos[:, 0].square().sum().backward()
    assert batch.pos.grad.abs().sum(dim=1).min() > 0
