"""What the layer does not take of what PyG does, or neither: one line that names the fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_coo_tensor

from stofm_geo.nn import SE2TransformerConv
from stofm_geo.ops import EdgeGraph

EDGES = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"aggr": "mean"}, ValueError, "aggr must be 'add', since .*; found 'mean'"),
        ({"aggr": ["add", "max"]}, ValueError, r"aggr must be 'add', since .*; found \['add'"),
        ({"aggr": None}, ValueError, "aggr must be 'add', since .*; found None"),
        ({"flow": "target_to_source"}, ValueError, r"found 'target_to_source'; pass edge_index"),
        ({"node_dim": -2}, ValueError, r"node_dim must be 0, since x is \[N, F\]; found -2"),
        ({"decomposed_layers": 2}, ValueError, "decomposed_layers must be 1; found 2"),
        ({"improved": True}, TypeError, "has no argument 'improved'"),
        ({"dropout": 1.5}, ValueError, "dropout must be a fraction between 0 and 1; found 1.5"),
        ({"heads": 2.0}, ValueError, "heads must be a whole number; found 2.0"),
        ({"in_channels": 8.0}, ValueError, r"in_channels must be a size, .*; found 8.0"),
        ({"in_channels": (8,)}, ValueError, r"or a pair \(sources, destinations\).*found \(8,\)"),
        ({"in_channels": -2}, ValueError, r"in_channels must be a size, .*; found -2"),
    ],
)
def test_options_that_cannot_be(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SE2TransformerConv(**{"in_channels": 8, "out_channels": 4, **options})


@pytest.mark.parametrize("option", ["flow", "aggr", "node_dim", "decomposed_layers"])
def test_options_set_later_are_not_passed_over(option: str) -> None:
    conv = SE2TransformerConv(8, 4, radial=None, aggr="sum", flow="source_to_target")
    conv(torch.randn(4, 8), EDGES)
    value = {"flow": "target_to_source", "aggr": "mean", "node_dim": 1, "decomposed_layers": 2}
    setattr(conv, option, value[option])
    with pytest.raises(ValueError, match=f"{option} must be .*; found {value[option]!r}"):
        conv(torch.randn(4, 8), EDGES)


X = torch.zeros(4, 8)
MATRIX = to_torch_coo_tensor(EDGES, size=(4, 2))


@pytest.mark.parametrize(
    ("x", "edge_index", "error", "message"),
    [
        ((X, None), EDGES, ValueError, "x of the destinations is missing"),
        (None, EDGES, ValueError, "x of the sources is missing"),
        ((X,), EDGES, ValueError, r"x must be a tensor or a pair \(x_src, x_dst\); found 1"),
        (X.numpy(), EDGES, ValueError, "x must be a tensor; found ndarray"),
        (X.expand(3, 4, 8), EDGES, ValueError, r"found \[3, 4, 8\].*Batch, or map over x with"),
        (X[:, :7], EDGES, ValueError, r"must have in_channels=8 columns; found \[4, 7\]"),
        (X.double(), EDGES, ValueError, "must be torch.float32 as the layer is; found torch.fl"),
        (X.long(), EDGES, ValueError, "must be torch.float32 .*; found torch.int64; cast it"),
        (X, EDGES.tolist(), ValueError, "edge_index must be a tensor .*; found list"),
        (X, None, ValueError, "edge_index must be a tensor .*; found NoneType"),
        (X, 3, ValueError, "edge_index must be a tensor .*; found int"),
        (X, EDGES.float(), ValueError, r"found torch.float32 \[2, 4\]; cast it with .long\(\)"),
        (X, EDGES.t(), ValueError, r"found torch.int64 \[4, 2\]; transpose it"),
        ((X, X[:2]), MATRIX, ValueError, r"\[2, 4\]; found \[4, 2\]; pass adj.t\(\)"),
        ((X, X[:2]), MATRIX.detach().requires_grad_().t(), ValueError, r"pass adj.coalesce\(\)"),
        (X, MATRIX, ValueError, r"= \[4, 4\]; found \[4, 2\]; build it with the sizes of x"),
        (X, EdgeIndex(EDGES, sparse_size=(6, 6)), ValueError, r"\(4, 4\); found \(6, 6\)"),
        (
            X,
            EdgeGraph(EDGES, 9),
            ValueError,
            r"EdgeGraph has .* = \(9, 9\), and x has \(4, 4\) rows",
        ),
        (X[:3], EDGES, IndexError, r"edge_index\[0\] holds 3, but there are 3 source nodes"),
        (X, EDGES - 1, IndexError, r"edge_index\[0\] holds -1, .* must be in \[0, 4\)"),
    ],
)
def test_graphs_that_cannot_be(x, edge_index, error: type[Exception], message: str) -> None:
    for hooked in (False, True):
        conv = SE2TransformerConv(8, 4, radial=None)
        conv.fuse = not hooked
        with pytest.raises(error, match=message):
            conv(x, edge_index)


def test_sizes_by_numpy() -> None:
    conv = SE2TransformerConv(np.int64(8), np.int64(4), np.int64(2), radial=None)
    assert conv(X, EDGES).shape == (4, 8)


@pytest.mark.parametrize("inside", [False, True])
def test_torch_jit_script_is_refused(inside: bool) -> None:
    conv = SE2TransformerConv(8, 4, vector_channels=2)
    with pytest.raises(NotImplementedError, match=r"torch.jit.script; use torch.compile, torch"):
        torch.jit.script(nn.ModuleList([conv]) if inside else conv)
