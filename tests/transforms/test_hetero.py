from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.transforms import HeteroView, MacroNodes, SpatialKNN, SubSlices
from tests.helpers import unchanged

CELL, CLS, MACRO = NodeType.CELL, NodeType.CLS, NodeType.MACRO


@pytest.fixture
def data() -> Data:
    draw = torch.Generator().manual_seed(0)
    data = Data(
        x=torch.randn(300, 5, generator=draw),
        pos=20 * torch.rand(300, 2, generator=draw, dtype=torch.float64),
        n_id=torch.arange(300),
        name="tissue",
    )
    data = Compose([SpatialKNN(6), MacroNodes(max_nodes=4)])(data)
    data.edge_attr = torch.randn(data.num_edges, 2, generator=draw)
    return data


def test_nodes_and_edges_go_to_their_types(data: Data) -> None:
    with unchanged(data):
        out = HeteroView()(data)
    out.validate()
    assert out.node_types == ["cell", "macro"] and len(out.edge_types) == 4
    for name, code in (("cell", CELL), ("macro", MACRO)):
        of = data.node_type == code
        assert out[name].num_nodes == of.sum()
        for key in ("x", "pos", "n_id"):
            assert torch.equal(out[name][key], data[key][of])
    kinds = data.node_type[data.edge_index]
    for one, code in (("cell", CELL), ("macro", MACRO)):
        for other, other_code in (("cell", CELL), ("macro", MACRO)):
            which = (kinds[0] == code) & (kinds[1] == other_code)
            store = out[one, "to", other]
            assert torch.equal(store.edge_attr, data.edge_attr[which])
            src, dst = data.edge_index[:, which]
            assert torch.equal(out[one].pos[store.edge_index[0]], data.pos[src])
            assert torch.equal(out[other].pos[store.edge_index[1]], data.pos[dst])
    assert out.name == "tissue" and "node_type" not in out["cell"]


def test_cells_know_their_virtual_cell(data: Data) -> None:
    out = HeteroView()(data)
    assert torch.equal(out["macro"].cluster_size, torch.bincount(out["cell"].cluster, minlength=4))
    for node in range(4):
        mean = out["cell"].pos[out["cell"].cluster == node].mean(dim=0)
        torch.testing.assert_close(out["macro"].pos[node], mean)
    assert "cluster" not in out["macro"] and "cluster_size" not in out["cell"]


def test_of_a_sub_slice(data: Data) -> None:
    subslices = SubSlices(num_cells=100)(data)
    for subslice in subslices:
        out = HeteroView()(subslice)
        out.validate()
        assert out["macro"].num_nodes == 4
        assert out["cell"].core_mask.sum() == subslice.core_mask.sum() == 100


def test_without_virtual_nodes() -> None:
    with pytest.raises(ValueError, match=r"HeteroView needs virtual nodes; run MacroNodes\(\)"):
        HeteroView()(Data(pos=torch.rand(4, 2), edge_index=torch.zeros(2, 1, dtype=torch.long)))
    assert repr(HeteroView()) == "HeteroView()"
