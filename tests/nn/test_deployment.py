"""Programs that run without this library, through the reference backend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from stofm_geo.nn import SE2TransformerConv

N, E = Dim("N", min=2), Dim("E", min=2)
SIZES = ({0: N}, {1: E}, {0: N}, {0: E})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SE2TransformerConv(
            8, 4, 2, beta=True, edge_dim=3, vector_channels=2, backend="reference"
        )

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor, edge_attr: Tensor) -> Tensor:
        return self.conv(x, edge_index, edge_attr, pos=pos)


def graph(nodes: int, edges: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pos = 5 * torch.randn(nodes, 2)
    pos[3] = torch.nan  # a node without a position
    where = torch.randint(nodes, (2, edges))
    return torch.randn(nodes, 8), where, pos, torch.randn(edges, 3)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.slow
def test_onnx_for_any_size(net: Net, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    given = graph(40, 200)
    program = torch.onnx.export(net, given, dynamo=True, dynamic_shapes=SIZES, verbose=False)
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [argument.name for argument in session.get_inputs()]
    for values in (given, graph(30, 12_000)):
        found = session.run(None, dict(zip(names, (v.numpy() for v in values), strict=True)))[0]
        torch.testing.assert_close(torch.from_numpy(found), net(*values).detach())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aot_inductor_for_any_size(net: Net, tmp_path: Path) -> None:
    given = graph(40, 200)
    with torch.no_grad():
        program = torch.export.export(net, given, dynamic_shapes=SIZES)
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "net.pt2")
        )
        run = torch._inductor.aoti_load_package(package)
        for values in (given, graph(30, 12_000)):
            torch.testing.assert_close(run(*values), net(*values))
