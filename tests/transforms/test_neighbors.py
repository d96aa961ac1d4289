from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform, Compose

from stofm_geo._keys import NodeType
from stofm_geo.transforms import (
    MacroNodes,
    PruneLongEdges,
    SpatialDelaunay,
    SpatialKNN,
    SpatialRadius,
)
from tests.helpers import turned, unchanged

GRAPHS = [SpatialKNN(5), SpatialRadius(1.8), SpatialDelaunay()]


def name(transform: BaseTransform) -> str:
    return type(transform).__name__


def graph(pos: np.ndarray, **more: torch.Tensor) -> Data:
    return Data(pos=torch.from_numpy(pos), **more)


def pairs(data: Data) -> set[tuple[int, int]]:
    return set(map(tuple, data.edge_index.t().tolist()))


@pytest.mark.parametrize("transform", [*GRAPHS, PruneLongEdges()], ids=name)
def test_input_stays_as_it_was(places, transform: BaseTransform) -> None:
    data = SpatialKNN(8)(graph(places["random"]))
    data.edge_attr = torch.rand(data.num_edges)
    with unchanged(data):
        out = transform(data)
    assert out is not data


@pytest.mark.parametrize("transform", GRAPHS, ids=name)
def test_slices_are_kept_apart(places, transform: BaseTransform) -> None:
    pos = places["random"]
    which = torch.from_numpy(np.random.default_rng(0).integers(0, 3, len(pos)))
    data = transform(graph(pos, slice_id=which))
    src, dst = data.edge_index
    assert (which[src] == which[dst]).all()
    code = dst * len(pos) + src
    assert (code[1:] > code[:-1]).all()
    for s in range(3):
        rows = (which == s).nonzero().view(-1)
        alone = rows[transform(graph(pos[rows.numpy()])).edge_index]
        here = data.edge_index[:, which[dst] == s]
        assert set(map(tuple, alone.t().tolist())) == set(map(tuple, here.t().tolist()))


@pytest.mark.parametrize("transform", GRAPHS, ids=name)
def test_edges_of_virtual_nodes_stay(places, transform: BaseTransform) -> None:
    pos = places["random"]
    data = SpatialKNN(3)(graph(pos, x=torch.rand(len(pos), 4)))
    data = MacroNodes(max_nodes=3)(data)
    again = transform(data)

    def virtual(one: Data) -> set[tuple[int, int]]:
        kind = one.node_type != NodeType.CELL
        return set(map(tuple, one.edge_index[:, kind[one.edge_index].any(dim=0)].t().tolist()))

    assert virtual(again) == virtual(data) != set()
    cells = pairs(again) - virtual(again)
    assert cells == pairs(transform(graph(pos)))
    dst = again.edge_index[1]
    assert (dst[1:] >= dst[:-1]).all()


@pytest.mark.parametrize("transform", GRAPHS, ids=name)
def test_old_edges_and_their_attributes_go(places, transform: BaseTransform) -> None:
    data = graph(places["square"], edge_index=torch.tensor([[0], [100]]), edge_attr=torch.ones(1))
    out = transform(data)
    assert (0, 100) not in pairs(out)
    assert out.edge_attr is None


@pytest.mark.parametrize("transform", GRAPHS, ids=name)
def test_float32_positions_do(places, transform: BaseTransform) -> None:
    wide, narrow = graph(places["random"]), graph(places["random"])
    narrow.pos = narrow.pos.float()
    assert pairs(transform(narrow)) == pairs(transform(wide))
    assert transform(narrow).pos.dtype == torch.float32


def test_prune_cuts_across_a_hole_and_a_tear() -> None:
    rng = np.random.default_rng(1)
    pos = rng.uniform(0, 40, (1500, 2))
    pos = pos[np.linalg.norm(pos - [12, 20], axis=1) > 6]
    pos[pos[:, 0] > 28, 0] += 15
    data = Compose([SpatialDelaunay(), PruneLongEdges()])(graph(pos))
    whole = SpatialDelaunay()(graph(pos))
    length = (pos[whole.edge_index[0]] - pos[whole.edge_index[1]]).astype(float)
    length = np.linalg.norm(length, axis=1)
    keep = length <= 3 * np.median(length)
    assert pairs(data) == set(map(tuple, whole.edge_index.t()[keep].tolist()))
    right = torch.from_numpy(pos[:, 0] > 30)
    assert not (right[data.edge_index[0]] ^ right[data.edge_index[1]]).any()
    middle = (pos[data.edge_index[0]] + pos[data.edge_index[1]]) / 2
    assert (np.linalg.norm(middle - [12, 20], axis=1) > 4).all()


def test_prune_measures_each_slice_by_itself(places) -> None:
    square = places["square"]
    which = torch.arange(2).repeat_interleave(len(square))
    pos = np.concatenate([square, 100 * square])
    data = SpatialKNN(4)(graph(pos, slice_id=which))
    assert pairs(PruneLongEdges(1.2)(data)) == {
        (a, b) for a, b in pairs(data) if np.linalg.norm(pos[a] - pos[b]) in (1, 100)
    }


def test_prune_keeps_attributes_with_their_edges_and_virtual_edges(places) -> None:
    data = SpatialKNN(4)(graph(places["square"], x=torch.rand(len(places["square"]), 3)))
    data = MacroNodes(max_nodes=2)(data)
    data.edge_attr = torch.arange(data.num_edges)
    out = PruneLongEdges(1.1)(data)
    assert torch.equal(data.edge_index[:, out.edge_attr], out.edge_index)
    virtual = (data.node_type != NodeType.CELL)[data.edge_index].any(dim=0)
    assert torch.isin(virtual.nonzero().view(-1), out.edge_attr).all()


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_prune_does_not_depend_on_pose(places, factor: float) -> None:
    prune = Compose([SpatialDelaunay(), PruneLongEdges(factor)])
    expected = pairs(prune(graph(places["holed"])))
    for angle in np.linspace(0.1, 6, 8):
        assert pairs(prune(graph(turned(places["holed"], angle, 300)))) == expected


def test_prune_needs_edges_and_takes_none() -> None:
    data = graph(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"PruneLongEdges needs data.edge_index; run Spatial"):
        PruneLongEdges()(data)
    data.edge_index = torch.empty(2, 0, dtype=torch.long)
    assert PruneLongEdges()(data).num_edges == 0


def test_graph_needs_positions() -> None:
    with pytest.raises(ValueError, match=r"data\.pos is missing"):
        SpatialKNN()(Data(x=torch.rand(3, 2)))


@pytest.mark.parametrize(
    ("make", "value", "error"),
    [
        (SpatialKNN, 0, ValueError),
        (SpatialKNN, -1, ValueError),
        (SpatialKNN, 2.5, TypeError),
        (SpatialKNN, True, TypeError),
        (SpatialKNN, "3", TypeError),
        (SpatialRadius, 0, ValueError),
        (SpatialRadius, -2.0, ValueError),
        (SpatialRadius, float("nan"), ValueError),
        (SpatialRadius, float("inf"), ValueError),
        (PruneLongEdges, 0.0, ValueError),
        (PruneLongEdges, None, TypeError),
    ],
)
def test_bad_arguments(make: type, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"must be .*; found {value!r}"):
        make(value)


def test_they_compose_by_name_and_tell_their_settings() -> None:
    assert repr(Compose([SpatialKNN(7), PruneLongEdges(2.0)])).count("k=7") == 1
    assert repr(SpatialRadius(1.5)) == "SpatialRadius(r=1.5)"
    assert repr(PruneLongEdges(2.0)) == "PruneLongEdges(factor=2.0)"
