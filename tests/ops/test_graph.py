from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from stofm_geo.ops import EdgeGraph


@pytest.fixture
def edge_index() -> Tensor:
    torch.manual_seed(0)
    return torch.stack([torch.randint(9, (40,)), torch.randint(6, (40,))])


def test_edges_are_sorted_by_destination_and_keep_their_order_within(edge_index: Tensor) -> None:
    graph = EdgeGraph(edge_index, 6, 9)
    order = edge_index[1].argsort(stable=True)
    assert torch.equal(graph.order, order)
    assert torch.equal(torch.stack([graph.src, graph.dst]), edge_index[:, order])
    for node in range(6):
        edges = slice(graph.ptr[node], graph.ptr[node + 1])
        assert (graph.dst[edges] == node).all()
        assert len(graph.dst[edges]) == (edge_index[1] == node).sum()


def test_the_reverse_groups_the_sorted_edges_by_source(edge_index: Tensor) -> None:
    graph = EdgeGraph(edge_index, 6, 9)
    ptr, edges = graph.reverse
    assert torch.equal(edges.sort().values, torch.arange(40))
    for node in range(9):
        assert (graph.src[edges[ptr[node] : ptr[node + 1]]] == node).all()
    assert graph.reverse[0] is ptr  # made once


def test_values_of_edges_go_there_and_back(edge_index: Tensor) -> None:
    graph = EdgeGraph(edge_index, 6, 9)
    values = torch.randn(40, 3)
    assert torch.equal(graph.sort(values), values[graph.order])
    assert torch.equal(graph.unsort(graph.sort(values)), values)
    again = graph.sorted()
    assert again.order is None and again.sort(values) is values
    assert torch.equal(again.edge_index, edge_index[:, graph.order])
    assert again.sorted() is again


def test_what_is_sorted_is_not_sorted_again(edge_index: Tensor) -> None:
    by_destination = edge_index[:, edge_index[1].argsort(stable=True)]
    assert EdgeGraph(by_destination, 6, 9).order is None
    known = EdgeIndex(by_destination, sparse_size=(9, 6), sort_order="col")
    graph = EdgeGraph(known, 6, 9)
    assert graph.order is None and type(graph.src) is Tensor
    assert torch.equal(graph.ptr, EdgeGraph(edge_index, 6, 9).ptr)


def test_through_batching_edges_stay_sorted(edge_index: Tensor) -> None:
    """Batching adds the number of nodes before: sorted graphs make a sorted batch."""
    edges = edge_index[:, edge_index[1].argsort(stable=True)]
    for kind in (edges, EdgeIndex(edges, sparse_size=(9, 9), sort_order="col")):
        batch = Batch.from_data_list([Data(edge_index=kind, num_nodes=9)] * 3)
        graph = EdgeGraph(batch.edge_index, 27)
        assert graph.order is None and graph.ptr[-1] == 120


@pytest.mark.parametrize("nodes", [0, 5])
def test_no_edges(nodes: int) -> None:
    graph = EdgeGraph(torch.empty(2, 0, dtype=torch.long), nodes)
    assert graph.ptr.tolist() == [0] * (nodes + 1) and graph.reverse[0].tolist() == [0] * (
        nodes + 1
    )


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 4).long(), torch.zeros(2, 4), torch.zeros(4).long()]
)
def test_what_is_no_edge_index_is_named(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"edge_index must be int64 \[2, E\]; found"):
        EdgeGraph(bad, 3)
