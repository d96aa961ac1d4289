from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.transforms import MacroNodes, MaskCells, SpatialKNN, SubSlices
from tests.helpers import unchanged


@pytest.fixture
def whole() -> Data:
    rng = np.random.default_rng(0)
    pos = torch.from_numpy(rng.uniform(0, 10, (200, 2)))
    x = torch.from_numpy(rng.normal(size=(200, 5))).float()
    return Compose([SpatialKNN(5), MacroNodes(max_nodes=4)])(Data(x=x, pos=pos))


def test_input_stays_as_it_was(whole: Data) -> None:
    with unchanged(whole):
        MaskCells(0.5)(whole)


def test_masked_cells_are_blank_and_others_are_not(whole: Data) -> None:
    torch.manual_seed(0)
    out = MaskCells(0.3)(whole)
    assert torch.equal(out.x_target, whole.x)
    assert out.mask.dtype == torch.bool
    assert (out.x[out.mask] == 0).all()
    kept = ~out.mask & (out.node_type == NodeType.CELL)
    assert torch.equal(out.x[kept], whole.x[kept])
    assert not out.mask[out.node_type != NodeType.CELL].any()
    assert (out.x[out.node_type == NodeType.CLS] == 0).all()
    assert 0 < out.mask.sum() < 200


@pytest.mark.parametrize("p", [0.0, 0.12, 0.5, 1.0])
def test_share(p: float) -> None:
    torch.manual_seed(0)
    data = Data(x=torch.rand(20000, 2), pos=torch.rand(20000, 2))
    out = MaskCells(p)(data)
    assert out.mask.double().mean() == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize("p", [0.0, 0.12, 0.6, 1.0])
@pytest.mark.parametrize("cells", [None, 30, 70])
def test_virtual_features_tell_nothing_of_masked_cells(
    whole: Data, p: float, cells: int | None
) -> None:
    torch.manual_seed(1)
    subslices = [whole] if cells is None else SubSlices(cells)(whole)
    for subslice in subslices:
        out = MaskCells(p)(subslice)
        n_id = torch.arange(whole.num_nodes) if cells is None else subslice.n_id
        hidden = torch.zeros(whole.num_nodes, dtype=torch.bool)
        hidden[n_id[out.mask]] = True
        for node in (out.node_type == NodeType.MACRO).nonzero().view(-1):
            left = (whole.cluster == n_id[node]) & ~hidden
            mean = whole.x[left].mean(dim=0) if left.any() else torch.zeros(5)
            torch.testing.assert_close(out.x[node], mean, atol=1e-5, rtol=1e-5)


def test_what_a_masked_cell_was_cannot_be_seen_anywhere(whole: Data) -> None:
    torch.manual_seed(2)
    first = MaskCells(0.3)(whole)
    other = whole.clone()
    other.x[first.mask] += 100 * torch.randn(int(first.mask.sum()), 5)
    for node in (whole.node_type == NodeType.MACRO).nonzero().view(-1):
        other.x[node] = other.x[whole.cluster == node].mean(dim=0)
    torch.manual_seed(2)
    second = MaskCells(0.3)(other)
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(first.x, second.x, atol=1e-3, rtol=0)


def test_only_core_cells_are_masked(whole: Data) -> None:
    for subslice in SubSlices(40)(whole):
        assert torch.equal(MaskCells(1.0)(subslice).mask, subslice.core_mask)


def test_same_seed_same_cells(whole: Data) -> None:
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(MaskCells(0.4)(whole).mask)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(("p", "error"), [(1.5, ValueError), (-1, ValueError), ("1", TypeError)])
def test_bad_share(p: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"p must be .*; found {p!r}"):
        MaskCells(p)  # type: ignore[arg-type]


def test_positions_are_not_needed_and_features_are() -> None:
    assert MaskCells(1.0)(Data(x=torch.ones(4, 2))).mask.all()
    with pytest.raises(ValueError, match=r"MaskCells needs data\.x; it masks features"):
        MaskCells()(Data(pos=torch.rand(4, 2)))
