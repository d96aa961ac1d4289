"""What holds of every transform: of batches, of the type of positions, of unfit ones."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import BaseTransform, Compose

import stofm_geo.transforms as T
from tests.helpers import unchanged

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
READING = [case for case in CASES if not isinstance(case[0], WITHOUT_POS)]
VIRTUAL = [case for case in CASES if case[1] in (JOINED, NOT_JOINED)]


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
def test_a_batch_is_as_one_by_one(transform, prepare, slices: bool) -> None:
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
        check_pieces(found, [subslice for subslices in expected for subslice in subslices])
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
        for one, other in zip(found, [p for subslices in expected for p in subslices], strict=True):
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


def as_list(found: Data | HeteroData | list[Data]) -> list:
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
@pytest.mark.parametrize(("transform", "prepare"), CASES, ids=name)
def test_whole_numbers_are_as_floats(transform, prepare, dtype: torch.dtype) -> None:
    floats = prepare(graph(40, 2))
    floats.pos = (floats.pos * 4).round().float()
    whole = copy.copy(floats)
    whole.pos = floats.pos.to(dtype)
    with unchanged(whole):
        [found] = one_by_one(transform, [whole])
    [expected] = one_by_one(transform, [floats])
    for one, other in zip(as_list(found), as_list(expected), strict=True):
        if isinstance(transform, WITHOUT_POS):
            stores = ["cell", "macro"] if isinstance(one, HeteroData) else [None]
            for store in stores:
                of = one if store is None else one[store]
                assert of.pos.dtype == dtype
                of.pos = of.pos.float()
        check_same(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("transform", "prepare"), READING, ids=name)
def test_half_precision_is_as_floats(transform, prepare, dtype: torch.dtype) -> None:
    half = prepare(graph(40, 2))
    half.pos = half.pos.to(dtype)
    floats = copy.copy(half)
    floats.pos = half.pos.float()
    [found], [expected] = one_by_one(transform, [half]), one_by_one(transform, [floats])
    for one, other in zip(as_list(found), as_list(expected), strict=True):
        check_same(one, other)


@pytest.mark.parametrize("default", [torch.float64, torch.float16], ids=str)
def test_whole_numbers_become_the_default_dtype(default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    pos = 3 * torch.cartesian_prod(torch.arange(6), torch.arange(6))
    try:
        torch.set_default_dtype(default)
        found = T.NormalizePositions()(Data(pos=pos)).pos
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == (torch.float64 if default == torch.float64 else torch.float32)
    # The sixth nearest of most cells of this lattice is two steps away.
    assert torch.equal(found, (pos - 7.5).to(found.dtype) / 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batched", [False, True], ids=["graph", "batch"])
@pytest.mark.parametrize(("transform", "prepare"), CASES, ids=name)
def test_positions_that_are_not_finite(transform, prepare, batched: bool, value: float) -> None:
    data = prepare(graph(30, 1))
    if batched:
        data = Batch.from_data_list([prepare(graph(20, 0)), data])
    first = int(data.ptr[1]) if batched else 0
    data.pos = data.pos.clone()
    data.pos[[first + 3, first + 7], [0, 1]] = value
    if isinstance(transform, WITHOUT_POS):
        transform(data)
        return
    message = (
        rf"data\.pos is NaN or infinite for 2 of {50 if batched else 30} cells "
        rf"\(node {first + 3}, {first + 7}\); drop them, before batching: data\.subgraph"
    )
    with pytest.raises(ValueError, match=message):
        transform(data)


def test_many_bad_positions_are_not_all_named() -> None:
    with pytest.raises(ValueError, match=r"for 9 of 9 cells \(node 0, 1, 2, \.\.\.\)"):
        T.RandomSE2()(Data(pos=torch.full((9, 2), torch.nan)))


@pytest.mark.parametrize("large", [1e38, 3e38])
def test_large_positions_whose_sum_is_not_finite_do(large: float) -> None:
    data = Data(pos=torch.full((9, 2), large))
    assert T.PerturbPositions()(data).num_nodes == 9


@pytest.mark.parametrize(("transform", "prepare"), VIRTUAL, ids=name)
def test_virtual_nodes_may_have_no_place(transform, prepare) -> None:
    data = prepare(graph(30, 1))
    data.pos = data.pos.clone()
    virtual = data.node_type != 0
    data.pos[virtual] = torch.nan
    [found] = one_by_one(transform, [data])
    for one in as_list(found):
        cells = one["cell"].pos if isinstance(one, HeteroData) else one.pos[one.node_type == 0]
        assert cells.isfinite().all() and len(cells)


@pytest.mark.parametrize(
    ("pos", "error", "message"),
    [
        (
            None,
            ValueError,
            r"data\.pos is missing; set it to .* stofm_geo\.from_anndata",
        ),
        (torch.rand(30, 3), ValueError, r"data\.pos must be \[30, 2\], .* found \[30, 3\]"),
        (torch.rand(30), ValueError, r"data\.pos must be \[30, 2\], .* found \[30\]"),
        (torch.rand(29, 2), ValueError, r"data\.pos must be \[30, 2\], .* found \[29, 2\]"),
        (torch.ones(30, 2, dtype=torch.bool), TypeError, "real numbers; found torch.bool"),
        (
            torch.ones(30, 2, dtype=torch.complex64),
            TypeError,
            "real numbers; found torch.complex64",
        ),
        ([[0.0, 1.0]] * 30, TypeError, "real numbers; found list"),
        (
            torch.tensor([[2**24 + 1, 0]] * 30),
            ValueError,
            r"integers up to 16777217, which torch\.float32 cannot hold; .*\.pos\.double",
        ),
    ],
)
@pytest.mark.parametrize(
    ("transform", "prepare"), [case for case in READING if case not in VIRTUAL], ids=name
)
def test_unfit_positions(transform, prepare, pos, error, message) -> None:
    data = prepare(graph(30, 1))
    data.pos = pos
    with pytest.raises(error, match=message):
        transform(data)


@pytest.mark.parametrize(("transform", "prepare"), CASES, ids=name)
def test_it_takes_a_data(transform, prepare) -> None:
    kind = type(transform).__name__
    with pytest.raises(TypeError, match=f"{kind} takes a Data or a Batch; found HeteroData"):
        transform(HeteroData())


@pytest.mark.parametrize(
    ("edge_index", "error", "message"),
    [
        (
            torch.tensor([[0, 30], [1, 2]]),
            IndexError,
            r"edge_index\[0\] holds 30, but there are",
        ),
        (torch.tensor([[0, 1], [-1, 2]]), IndexError, r"edge_index\[1\] holds -1"),
        (torch.tensor([[0.0, 1], [1, 2]]), ValueError, r"int64 \[2, E\]; found torch\.float32"),
        (torch.zeros(7, 2, dtype=torch.long), ValueError, "transpose it"),
        ([[0, 1], [1, 2]], TypeError, "edge_index must be a tensor; found list"),
    ],
)
@pytest.mark.parametrize(
    "transform", [T.MacroNodes(), T.PruneLongEdges(), T.SubSlices()], ids=lambda t: type(t).__name__
)
def test_unfit_edges(transform, edge_index, error, message) -> None:
    data = graph(30, 1)
    data.edge_index = edge_index
    with pytest.raises(error, match=message):
        transform(data)


def test_small_integers_are_indices_too() -> None:
    data = T.SpatialKNN(4)(graph(30, 1))
    expected = T.MacroNodes()(data)
    data.edge_index = data.edge_index.int()
    assert torch.equal(T.MacroNodes()(data).edge_index, expected.edge_index)
    assert data.edge_index.dtype == torch.int32
