from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from stofm_geo.nn import adjacency
from tests.nn.helpers import attend, make_conv, make_graph

MAKERS = {"coo": to_torch_coo_tensor, "csr": to_torch_csr_tensor, "csc": to_torch_csc_tensor}


class FakeSparseTensor:
    """As much of torch-sparse's ``SparseTensor`` as is asked for."""

    def __init__(self, row: Tensor, col: Tensor, value: Tensor | None) -> None:
        self.parts = row, col, value

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.parts

    def sparse_sizes(self) -> tuple[int, int]:
        return 9, 9

    def set_value(self, value: Tensor, layout: str) -> FakeSparseTensor:
        assert layout == "coo"
        return FakeSparseTensor(*self.parts[:2], value)


def by_destination(graph: dict, layout: str = "coo") -> dict:
    """No edge twice, in the order in which a transposed matrix of that layout keeps them."""
    edges = graph["edge_index"].unique(dim=1)
    order = edges[0 if layout == "csc" else 1].argsort(stable=True)
    new = {**graph, "edge_index": edges[:, order]}
    for key in ("edge_attr", "pair"):
        new[key] = None if graph[key] is None else graph[key][: edges.shape[1]]
    return new


@pytest.mark.parametrize("layout", MAKERS)
def test_a_transposed_sparse_matrix_is_its_edges(options: dict, layout: str) -> None:
    conv = make_conv(**options)
    graph = by_destination(make_graph(conv), layout)
    matrix = MAKERS[layout](graph["edge_index"].flip(0), size=(9, 9))
    torch.testing.assert_close(
        attend(conv, {**graph, "edge_index": matrix})[:4], attend(conv, graph)[:4]
    )


def test_an_edge_index_of_torch_geometric_is_its_edges() -> None:
    conv = make_conv(edge_dim=3, vector_channels=2)
    graph = by_destination(make_graph(conv))
    edges = EdgeIndex(graph["edge_index"], sparse_size=(9, 9), sort_order="col")
    result = conv(**{**graph, "edge_index": edges}, return_attention_weights=True)
    expected = attend(conv, graph)
    torch.testing.assert_close((result[0], result[1][1]), (expected.x, expected.alpha))
    assert result[1][0] is edges


@pytest.mark.parametrize("layout", MAKERS)
def test_values_of_a_matrix_are_edge_features_unless_others_are_given(layout: str) -> None:
    for size in (1, 3):
        conv = make_conv(edge_dim=size)
        graph = by_destination(make_graph(conv), layout)
        values = graph["edge_attr"]
        matrix = MAKERS[layout](graph["edge_index"].flip(0), values.squeeze(1), size=(9, 9))
        expected = conv(**graph)
        torch.testing.assert_close(
            conv(**{**graph, "edge_index": matrix, "edge_attr": None}), expected
        )
        graph["edge_attr"] = values + 1
        torch.testing.assert_close(conv(**{**graph, "edge_index": matrix}), conv(**graph))
        assert (conv(**graph) != expected).any()


@pytest.mark.parametrize("layout", MAKERS)
def test_attention_weights_come_back_as_a_matrix(layout: str) -> None:
    conv = make_conv()
    graph = by_destination(make_graph(conv), layout)
    matrix = MAKERS[layout](graph["edge_index"].flip(0), size=(9, 9))
    _, (weights, alpha) = conv(**{**graph, "edge_index": matrix}, return_attention_weights=True)
    assert weights.layout == matrix.layout and weights.shape == (9, 9, 3)
    dense = torch.zeros(9, 9, 3, dtype=torch.float64)
    dense[graph["edge_index"][1], graph["edge_index"][0]] = alpha
    read, values = adjacency.to_edge_graph(weights, 9, 9)
    edges = read.edge_index
    torch.testing.assert_close(values, dense[edges[1], edges[0]])


def test_a_matrix_between_two_kinds_of_nodes() -> None:
    conv = make_conv()
    graph = make_graph(conv, n=12)
    edges = torch.stack([torch.randint(8, (40,)), torch.randint(4, (40,))])
    graph = by_destination({**graph, "edge_index": edges})
    for key in ("x", "pos"):
        graph[key] = (graph[key][:8], graph[key][8:])
    matrix = to_torch_coo_tensor(graph["edge_index"].flip(0), size=(4, 8))
    torch.testing.assert_close(
        attend(conv, {**graph, "edge_index": matrix})[::2], attend(conv, graph)[::2]
    )


@pytest.mark.parametrize("with_value", [True, False])
def test_torch_sparses_matrix_is_read_and_given_back(
    monkeypatch: pytest.MonkeyPatch, with_value: bool
) -> None:
    monkeypatch.setattr(adjacency, "SparseTensor", FakeSparseTensor)
    conv = make_conv(edge_dim=1)
    graph = make_graph(conv)
    value = graph["edge_attr"][:, 0] if with_value else None
    matrix = FakeSparseTensor(*graph["edge_index"].flip(0), value)
    given = {**graph, "edge_index": matrix}
    if with_value:
        given["edge_attr"] = None
    out, weights = conv(**given, return_attention_weights=True)
    expected = attend(conv, graph)
    torch.testing.assert_close((out, weights.parts[2]), (expected.x, expected.alpha))


def test_edge_features_of_one_number_may_be_a_vector() -> None:
    conv = make_conv(edge_dim=1)
    graph = make_graph(conv)
    flat = {**graph, "edge_attr": graph["edge_attr"][:, 0]}
    assert torch.equal(conv(**flat), conv(**graph))
