"""A batch gives what its graphs give one by one, in every transform."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import BaseTransform, Compose

import stofm_geo.transforms as T

JOINED = Compose([T.SpatialKNN(4), T.MacroNodes(max_nodes=3)])
NOT_JOINED = Compose([T.SpatialKNN(4), T.MacroNodes(max_nodes=3, join=False)])

# Each transform, and what comes before it.
CASES: list[tuple[BaseTransform, Callable[[Data], Data]]] = [
    (T.SpatialKNN(3), copy.copy),
    (T.SpatialKNN(3), JOINED),
    (T.SpatialRadius(1.5), copy.copy),
    (T.SpatialDelaunay(), copy.copy),
    (T.PruneLongEdges(1.2), T.SpatialKNN(6)),
    (T.PruneLongEdges(1.2), JOINED),
    (T.NormalizePositions(), T.SpatialKNN(3)),
    (T.RandomSE2(3.0), T.SpatialKNN(3)),
    (T.RandomSE2(3.0), JOINED),
    (T.PerturbPositions(0.4, 2.0), T.SpatialKNN(3)),
    (T.PerturbPositions(0.4, 2.0), JOINED),
    (T.MacroNodes(max_nodes=3), T.SpatialKNN(4)),
    (T.MacroNodes(max_nodes=3, join=False), T.SpatialKNN(4)),
    (T.JoinMacroNodes(), NOT_JOINED),
    (T.MaskCells(0.4), T.SpatialKNN(3)),
    (T.MaskCells(0.4), JOINED),
    (T.SubSlices(12, halo=1), T.SpatialKNN(4)),
    (T.SubSlices(12, halo=2), JOINED),
    (T.HeteroView(), JOINED),
]
WITHOUT_POS = (T.MaskCells, T.JoinMacroNodes, T.HeteroView)


def name(value: object) -> str:
    return {copy.copy: "bare", JOINED: "joined", NOT_JOINED: "unjoined"}.get(value, repr(value))


def graph(n: int, seed: int, *, slices: bool = False) -> Data:
    """Random cells in an outline that depends on the seed, with what people put into a graph."""
    draw = torch.Generator().manual_seed(seed)
    data = Data(
        x=torch.randn(n, 5, generator=draw),
        pos=(1 + seed) * torch.rand(n, 2, generator=draw, dtype=torch.float64) * n**0.5,
        n_id=100 * seed + torch.arange(n),
        y=torch.tensor([[seed, 2.0]]),
        name=f"graph {seed}",
        parent_index=torch.randint(max(n, 1), (n,), generator=draw),
    )
    if slices:
        data.slice_id = torch.randint(3, (n,), generator=draw)
    return data


def graphs(prepare: Callable[[Data], Data], *, slices: bool = False) -> list[Data]:
    """Graphs of several sizes, an empty one and one of a single node among them."""
    found = []
    for seed, n in enumerate([40, 0, 31, 1, 2, 55, 0]):
        data = prepare(graph(n, seed, slices=slices))
        if data.edge_index is not None:
            data.edge_attr = torch.arange(2.0 * data.num_edges).view(-1, 2)
            data.edge_weight = torch.arange(data.num_edges) / 7
        found.append(data)
    return found


def one_by_one(transform: BaseTransform, parts: list[Data]) -> list:
    torch.manual_seed(3)
    return [transform(part) for part in parts]


def of_batch(transform: BaseTransform, batch: Data) -> Data:
    torch.manual_seed(3)
    return transform(batch)


def check_same(found: Data | HeteroData, expected: Data | HeteroData) -> None:
    """Every attribute, byte by byte."""
    assert type(found) is type(expected)
    one, other = found.to_dict(), expected.to_dict()
    check_values(one, other, "")


def check_values(found: object, expected: object, where: str) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            check_values(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=where)
    else:
        assert found == expected, where


def test_all_transforms_are_here() -> None:
    public = [getattr(T, each) for each in T.__all__]
    kinds = {one for one in public if isinstance(one, type) and issubclass(one, BaseTransform)}
    assert kinds == {type(transform) for transform, _ in CASES}


@pytest.mark.parametrize("slices", [False, True], ids=["", "slices"])
@pytest.mark.parametrize(("transform", "prepare"), CASES, ids=name)
def test_a_batch_is_as_one_by_one(transform, prepare, slices: bool, unchanged) -> None:
    parts = graphs(prepare, slices=slices)
    if isinstance(transform, T.NormalizePositions) and slices:  # cells of a slice at two places
        parts = [part for part in parts if part.num_nodes != 2]
    if isinstance(transform, T.HeteroView):  # is of cells alone, which no size tells of no cells
        for part in parts:
            del part.parent_index
    expected = one_by_one(transform, parts)
    batch = Batch.from_data_list(parts)
    stored = copy.deepcopy((batch._slice_dict, batch._inc_dict))
    with unchanged(batch):
        found = of_batch(transform, batch)
    check_values((batch._slice_dict, batch._inc_dict)[0], stored[0], "slices")
    check_values(batch._inc_dict, stored[1], "increments")
    if isinstance(transform, T.SubSlices):
        check_pieces(found, [piece for pieces in expected for piece in pieces])
        return
    again = Batch.from_data_list(expected)
    assert found.num_graphs == again.num_graphs == len(parts)
    check_same(found, again)
    check_values(found._slice_dict, again._slice_dict, "slices")
    check_values(found._inc_dict, again._inc_dict, "increments")
    for one, other in zip(found.to_data_list(), expected, strict=True):
        check_same(one, other)


def check_pieces(found: list[Data], expected: list[Data]) -> None:
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        check_same(one, other)


def flattened(parts: list[Data], seed: int | None) -> Data:
    """The graphs in one ``Data`` with ``batch`` alone; with a seed, their nodes mixed.

    Nodes of one graph keep their order, and the edges theirs.
    """
    whole = Batch.from_data_list(parts)
    place = torch.arange(whole.num_nodes)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        place = whole.batch[torch.randperm(len(place), generator=draw)].argsort(stable=True)
    order = place.argsort()
    data = Data(batch=whole.batch[order])
    for key in OF_NODES:
        if key in whole:
            data[key] = whole[key][order]
    if "edge_index" in whole:
        data.edge_index, data.edge_attr = place[whole.edge_index], whole.edge_attr
    return data


OF_NODES = ("x", "pos", "n_id", "node_type", "cluster", "cluster_size")


def check_alike(found: Data, expected: Data) -> None:
    """Same nodes and edges, whatever the order of edges."""
    for key in (*OF_NODES, "mask", "x_target", "moved", "pos_target", "core_mask"):
        assert (key in found) == (key in expected), key
        assert key not in expected or torch.equal(found[key], expected[key]), key
    code, other = (of.edge_index[1] * of.num_nodes + of.edge_index[0] for of in (found, expected))
    assert torch.equal(code.sort()[0], other.sort()[0])
    assert (found.edge_attr is None) == (expected.edge_attr is None)
    if expected.edge_attr is not None:
        attributes = found.edge_attr[code.argsort()], expected.edge_attr[other.argsort()]
        assert torch.equal(*attributes)


@pytest.mark.parametrize("seed", [None, 1], ids=["sorted", "mixed"])
@pytest.mark.parametrize(("transform", "prepare"), CASES, ids=name)
def test_batch_without_ptr(transform, prepare, seed: int | None) -> None:
    parts = [part for part in graphs(prepare) if part.num_nodes]
    expected = one_by_one(transform, parts)
    data = flattened(parts, seed)
    found = of_batch(transform, data)
    if isinstance(transform, T.SubSlices):
        for one, other in zip(found, [p for pieces in expected for p in pieces], strict=True):
            check_alike(one, other)
            assert "batch" not in one
        return
    if isinstance(transform, T.HeteroView):
        for one, other in zip(found.to_data_list(), expected, strict=True):
            assert one["macro"].cluster_size.equal(other["macro"].cluster_size)
            assert one["cell"].cluster.equal(other["cell"].cluster)
            for kind in ("cell", "macro"):
                check_values(one[kind].x, other[kind].x, kind)
                check_values(one[kind].pos, other[kind].pos, kind)
            for kind in other.edge_types:
                assert one[kind].num_edges == other[kind].num_edges
        return
    assert "ptr" not in found
    assert torch.equal(found.batch[: data.num_nodes], data.batch) or seed is None
    assert seed is not None or torch.equal(found.batch, found.batch.sort()[0])
    assert found.edge_index is data.edge_index or (found.edge_index[1].diff() >= 0).all()
    for number, other in enumerate(expected):
        check_alike(found.subgraph(found.batch == number), other)
