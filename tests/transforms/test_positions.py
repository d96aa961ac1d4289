from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from stofm_geo._keys import NodeType
from stofm_geo.transforms import (
    MacroNodes,
    NormalizePositions,
    PerturbPositions,
    RandomSE2,
    SpatialKNN,
)
from stofm_geo.transforms.neighbor_search import spacing
from tests.helpers import turned, unchanged


@pytest.fixture
def data(places) -> Data:
    pos = torch.from_numpy(places["random"])
    return SpatialKNN(4)(Data(pos=pos, x=torch.rand(len(pos), 3)))


@pytest.mark.parametrize(
    "transform", [NormalizePositions(), RandomSE2(10), PerturbPositions(0.5, 2)], ids=repr
)
def test_input_stays_as_it_was(data: Data, transform: BaseTransform) -> None:
    with unchanged(data):
        assert transform(data) is not data


@pytest.mark.parametrize("place", ["square", "hexagonal", "anisotropic", "random", "doubled"])
def test_normalised_lengths_do_not_depend_on_pose_or_unit(places, place: str) -> None:
    def lengths(pos: np.ndarray) -> np.ndarray:
        out = NormalizePositions()(Data(pos=torch.from_numpy(pos))).pos
        assert out.dtype == torch.float64
        assert out.mean(dim=0).abs().max() < 1e-7
        return pdist(out)

    pos = places[place]
    expected = lengths(pos)
    # The published normalisation would change by 30 % here: it measures a bounding box.
    for angle, shift, unit in [(math.pi / 4, 0, 1), (1, 1e5, 0.3), (2, -1e3, 1e4)]:
        moved = unit * turned(pos, angle, shift)
        np.testing.assert_allclose(lengths(moved), expected, rtol=0, atol=1e-8)


def test_the_unit_is_the_cell_spacing_of_each_slice(places) -> None:
    pos = torch.from_numpy(np.concatenate([places["square"], 50 * places["random"] + 7]))
    which = torch.arange(2).repeat_interleave(torch.tensor([len(places["square"]), 220]))
    out = NormalizePositions()(Data(pos=pos, slice_id=which))
    for s in (0, 1):
        assert spacing(out.pos[which == s]) == pytest.approx(1)
        assert out.pos[which == s].mean(dim=0).abs().max() < 1e-9


def test_turning_the_slice_turns_the_result(places) -> None:
    pos = places["random"]
    first = NormalizePositions()(Data(pos=torch.from_numpy(pos))).pos.numpy()
    second = NormalizePositions()(Data(pos=torch.from_numpy(turned(pos, 0.8, 5)))).pos.numpy()
    np.testing.assert_allclose(second, turned(first, 0.8), atol=1e-10)


def test_virtual_nodes_must_come_after(data: Data) -> None:
    with pytest.raises(ValueError, match="run NormalizePositions before MacroNodes"):
        NormalizePositions()(MacroNodes(max_nodes=3)(data))


def test_all_at_one_place_is_an_error_that_says_how_many() -> None:
    with pytest.raises(
        ValueError, match=r"all 5 cells .* the same position; .* at least two distinct positions"
    ):
        NormalizePositions()(Data(pos=torch.ones(5, 2)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_cells(n: int) -> None:
    pos = torch.tensor([[3.0, 4.0], [8.0, 4.0], [3.0, 9.0]], dtype=torch.float64)[:n]
    out = NormalizePositions()(Data(pos=pos)).pos
    assert out.isfinite().all()
    assert out.mean(dim=0).abs().max() < 1e-12


def test_random_motion_keeps_distances_and_handedness(data: Data) -> None:
    angles = []
    for seed in range(6):
        torch.manual_seed(seed)
        out = RandomSE2(100.0)(data)
        assert out.pos.dtype == data.pos.dtype
        np.testing.assert_allclose(pdist(out.pos), pdist(data.pos), atol=1e-10)
        before, after = data.pos[1:3] - data.pos[0], out.pos[1:3] - out.pos[0]
        torch.testing.assert_close(torch.linalg.det(before), torch.linalg.det(after))
        angles.append(torch.atan2(*after[0]) - torch.atan2(*before[0]))
        assert torch.equal(out.edge_index, data.edge_index)
    assert torch.stack(angles).std() > 0.3


def test_random_motion_shifts_by_as_much_as_asked(data: Data) -> None:
    torch.manual_seed(0)
    origin = Data(pos=torch.zeros(1, 2))
    shifts = torch.cat([RandomSE2(3.0)(origin).pos for _ in range(500)])
    assert shifts.std(dim=0).sub(3).abs().max() < 0.35
    assert RandomSE2(0)(origin).pos.abs().max() == 0


def test_perturbed_cells_move_by_sigma_and_others_stay() -> None:
    torch.manual_seed(0)
    data = Data(pos=torch.rand(20000, 2, dtype=torch.float64))
    out = PerturbPositions(0.12, 5.0)(data)
    assert out.pos_target is data.pos and out.pos.dtype == torch.float64
    assert out.moved.dtype == torch.bool
    assert out.moved.double().mean() == pytest.approx(0.12, abs=0.01)
    move = out.pos - out.pos_target
    assert move[~out.moved].abs().max() == 0
    assert (move[out.moved] != 0).all()
    torch.testing.assert_close(
        move[out.moved].std(dim=0), torch.full((2,), 5.0).double(), atol=0.25, rtol=0
    )
    assert move[out.moved].mean(dim=0).abs().max() < 0.4


def test_only_core_cells_or_cells_move(data: Data) -> None:
    whole = MacroNodes(max_nodes=3)(data)
    out = PerturbPositions(1.0, 1.0)(whole)
    assert torch.equal(out.moved, whole.node_type == NodeType.CELL)
    whole.core_mask = torch.arange(whole.num_nodes) < 20
    assert torch.equal(PerturbPositions(1.0, 1.0)(whole).moved, whole.core_mask)
    assert not PerturbPositions(0.0)(whole).moved.any()


@pytest.mark.parametrize("transform", [RandomSE2(2.0), PerturbPositions(0.3)], ids=repr)
def test_same_seed_same_result(data: Data, transform: BaseTransform) -> None:
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(data).pos)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerturbPositions(p=1.2), "p must be a fraction between 0 and 1; found 1.2"),
        (lambda: PerturbPositions(p=-0.1), "p must be a fraction"),
        (lambda: PerturbPositions(p=float("nan")), "p must be a fraction"),
        (lambda: PerturbPositions(sigma=0), "sigma must be above zero; found 0"),
        (lambda: RandomSE2(-1), "shift must be zero or more; found -1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
