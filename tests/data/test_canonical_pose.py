from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stofm_geo.data import CanonicalPose, canonical_pose
from stofm_geo.transforms.neighbor_search import spacing
from tests.helpers import turned

PLACES = ["square", "hexagonal", "anisotropic", "holed", "framed", "random", "doubled"]
COPIES = [
    (0.0, 0.0, 1.0),
    (0.9, 0, 1),
    (2.0, 1e3, 1),
    (np.pi / 2, -70, 1),
    (4, 5, 1e-3),
    (1, 9, 47),
]


def counts(n: int, genes: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(2, (n, genes)).astype(np.float32)


@pytest.mark.parametrize("place", PLACES)
def test_a_turned_shifted_rescaled_resorted_copy_has_the_same_bytes(places, place: str) -> None:
    pos = places[place]
    rows = counts(len(pos))
    expected = canonical_pose(sp.csr_matrix(rows), pos)
    for i, (angle, shift, unit) in enumerate(COPIES):
        order = np.random.default_rng(i).permutation(len(pos))
        moved = unit * turned(pos, angle, shift)[order]
        frame = canonical_pose(sp.csr_matrix(rows[order]), moved)
        assert frame.pos.tobytes() == expected.pos.tobytes()
        np.testing.assert_array_equal(order[frame.order], expected.order)
        assert frame.spacing == pytest.approx(unit * expected.spacing, rel=1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_the_frame_is_a_rigid_motion_in_cell_spacings(places, place: str) -> None:
    pos = places[place]
    order, framed, unit = canonical_pose(counts(len(pos)), pos)
    assert sorted(order) == list(range(len(pos)))
    assert unit == spacing(torch.from_numpy(pos))
    own = (pos - pos.mean(axis=0))[order] / unit
    np.testing.assert_allclose(framed.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(framed @ framed.T, own @ own.T, atol=2e-3)
    area = own[0, 0] * own[1, 1] - own[0, 1] * own[1, 0]
    framed_area = framed[0, 0] * framed[1, 1] - framed[0, 1] * framed[1, 0]
    assert framed_area == pytest.approx(area, abs=2e-3)  # turned, not mirrored
    assert not np.signbit(framed[framed == 0]).any()


STORAGES = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "coo": sp.coo_matrix,
    "dense": np.asarray,
    "float64": lambda rows: rows.astype(np.float64),
    "int64": lambda rows: sp.csr_matrix(rows.astype(np.int64)),
    "unsorted": lambda rows: sp.csr_matrix(rows[:, ::-1])[:, ::-1],
    "zeros stored": lambda rows: sp.csr_matrix(
        (rows.ravel(), np.tile(np.arange(9), len(rows)), 9 * np.arange(len(rows) + 1)),
        shape=rows.shape,
    ),
    "minus zero": lambda rows: np.where(rows == 0, -0.0, rows),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(places, storage: str) -> None:
    pos = places["random"]
    rows = counts(len(pos))
    expected = canonical_pose(rows, pos)
    frame = canonical_pose(STORAGES[storage](rows.copy()), pos)
    np.testing.assert_array_equal(frame.order, expected.order)
    assert frame.pos.tobytes() == expected.pos.tobytes()


@pytest.mark.parametrize("place", ["square", "hexagonal", "random", "doubled"])
@pytest.mark.parametrize("kinds", [1, 2, 5])
def test_identical_rows_are_told_apart_by_position(places, place: str, kinds: int) -> None:
    pos = places[place]
    rows = counts(kinds)[np.random.default_rng(1).integers(0, kinds, len(pos))]
    first = canonical_pose(rows, pos)
    order = np.random.default_rng(2).permutation(len(pos))
    second = canonical_pose(rows[order], pos[order])
    assert first.pos.tobytes() == second.pos.tobytes()
    np.testing.assert_array_equal(rows[first.order], rows[order][second.order])
    np.testing.assert_allclose(pos[first.order], pos[order][second.order])


def test_some_empty_and_some_equal_rows_turn_with_the_slice(places) -> None:
    pos = places["hexagonal"]
    rows = counts(len(pos))
    rows[::3] = 0
    rows[1::6] = rows[1]
    first = canonical_pose(rows, pos)
    second = canonical_pose(rows, turned(pos, 2.3, 40))
    assert first.pos.tobytes() == second.pos.tobytes()
    np.testing.assert_array_equal(first.order, second.order)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_cells(n: int) -> None:
    pos = np.array([[3.0, 4.0], [8.0, 4.0], [3.0, 9.5], [0.0, 0.0]])[:n]
    rows = counts(n)
    frame = canonical_pose(rows, pos)
    assert isinstance(frame, CanonicalPose) and np.isfinite(frame.pos).all()
    again = canonical_pose(rows[::-1], turned(pos, 1.0, 7)[::-1].copy())
    assert again.pos.tobytes() == frame.pos.tobytes()
    np.testing.assert_array_equal((n - 1) - again.order, frame.order)


def test_one_place_is_an_error_that_says_where() -> None:
    message = r"all 4 cells are at one place \(2.5, -1\); .* two places or more"
    with pytest.raises(ValueError, match=message):
        canonical_pose(counts(4), np.tile([2.5, -1.0], (4, 1)))


def test_input_stays_as_it_was(places) -> None:
    pos, rows = places["random"].copy(), sp.csr_matrix(counts(220))
    before = rows.data.copy()
    canonical_pose(rows, pos)
    np.testing.assert_array_equal(pos, places["random"])
    np.testing.assert_array_equal(rows.data, before)


def test_many_rows_are_hashed_in_steps_without_a_seam() -> None:
    rng = np.random.default_rng(3)
    rows = sp.random(70_000, 5, 0.4, format="csr", random_state=rng)
    pos = rng.uniform(0, 300, (70_000, 2))
    order = rng.permutation(70_000)
    first, second = canonical_pose(rows, pos), canonical_pose(rows[order], pos[order])
    assert first.pos.tobytes() == second.pos.tobytes()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["osmfish_sscortex", "st_mouse_olfactory_bulb", "dlpfc_151673"])
def test_real_slices_have_a_frame_of_their_own(shared_data, name: str) -> None:
    import anndata

    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    pos = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    expected = canonical_pose(adata.X, pos)
    for seed, (angle, shift, unit) in enumerate([(0.7, 0, 1), (3, 1e4, 0.2)]):
        order = np.random.default_rng(seed).permutation(adata.n_obs)
        frame = canonical_pose(adata.X[order], unit * turned(pos, angle, shift)[order])
        assert frame.pos.tobytes() == expected.pos.tobytes()
        assert (adata.X[order[frame.order]] != adata.X[expected.order]).nnz == 0
        np.testing.assert_allclose(pos[order[frame.order]], pos[expected.order])
