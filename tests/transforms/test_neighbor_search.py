from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist
from torch import Tensor

from stofm_geo.transforms import gpu_search_unavailable, neighbor_search
from tests.helpers import turned

SEARCHES = {
    "knn1": lambda pos: neighbor_search.knn(pos, 1),
    "knn4": lambda pos: neighbor_search.knn(pos, 4),
    "knn12": lambda pos: neighbor_search.knn(pos, 12),
    "radius": lambda pos: neighbor_search.radius(pos, 2.0),
    "delaunay": neighbor_search.delaunay,
}
PLACES = ["square", "hexagonal", "anisotropic", "holed", "framed", "random", "doubled"]


def pairs(edge_index: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edge_index.t().tolist()))


def search(name: str, pos: np.ndarray) -> set[tuple[int, int]]:
    return pairs(SEARCHES[name](torch.from_numpy(np.ascontiguousarray(pos))))


def assert_tidy(edge_index: Tensor, n: int) -> None:
    """Both directions, no loops, no doubles, sorted by destination, then source."""
    assert edge_index.dtype == torch.int64 and edge_index.shape[0] == 2
    src, dst = edge_index
    assert (src != dst).all()
    code = dst * n + src
    assert (code[1:] > code[:-1]).all()
    assert torch.equal((src * n + dst).sort().values, code)


def slow_knn(pos: np.ndarray, k: int) -> set[tuple[int, int]]:
    distance = cdist(pos, pos)
    np.fill_diagonal(distance, np.inf)
    kth = np.sort(distance, axis=1)[:, k - 1]
    near = distance <= kth[:, None] * (1 + 1e-4)
    return set(zip(*map(np.ndarray.tolist, np.nonzero(near | near.T)), strict=True))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SEARCHES)
def test_edges_are_undirected_and_sorted_by_destination(places, place: str, name: str) -> None:
    pos = torch.from_numpy(places[place])
    before = pos.clone()
    edge_index = SEARCHES[name](pos)
    assert_tidy(edge_index, len(pos))
    assert edge_index.shape[1] > 0
    assert torch.equal(pos, before)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("k", [1, 3, 6, 7, 40])
def test_knn_is_that_of_brute_force(places, place: str, k: int) -> None:
    pos = places[place]
    assert pairs(neighbor_search.knn(torch.from_numpy(pos), k)) == slow_knn(pos, k)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("r", [0.9, 1.0, 1.5, 2.0])
def test_radius_is_that_of_brute_force(places, place: str, r: float) -> None:
    pos = places[place]
    near = cdist(pos, pos) <= r * (1 + 1e-4)
    np.fill_diagonal(near, False)
    expected = set(zip(*map(np.ndarray.tolist, np.nonzero(near)), strict=True))
    assert pairs(neighbor_search.radius(torch.from_numpy(pos), r)) == expected


@pytest.mark.parametrize(
    ("place", "k", "degree"),
    [
        *[
            ("square", 1, 4),
            ("square", 4, 4),
            ("square", 5, 8),
            ("square", 8, 8),
            ("square", 9, 12),
        ],
        *[("hexagonal", 1, 6), ("hexagonal", 6, 6), ("hexagonal", 7, 12), ("hexagonal", 13, 18)],
    ],
)
def test_knn_keeps_whole_rings_of_a_lattice(places, place: str, k: int, degree: int) -> None:
    pos = places[place]
    middle = int(np.linalg.norm(pos - pos.mean(axis=0), axis=1).argmin())
    dst = neighbor_search.knn(torch.from_numpy(pos), k)[1]
    # Neighbours that reach in from beyond a ring's gap come from the outline; none is this deep.
    assert int((dst == middle).sum()) == degree


def test_ties_beyond_the_first_query_are_found() -> None:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    wheel = np.concatenate([[[0.0, 0.0]], np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    assert int((neighbor_search.knn(torch.from_numpy(wheel), 1)[1] == 0).sum()) == 60


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("place", PLACES)
def test_turning_and_shifting_changes_no_graph(places, place: str, name: str) -> None:
    rng = np.random.default_rng(1)
    graph = search(name, places[place])
    for i in range(20):
        shift = 10.0 ** rng.uniform(0, 6) if i < 18 else 1e6
        moved = turned(places[place], rng.uniform(-7, 7), rng.uniform(-1, 1, 2) * shift)
        assert search(name, moved) == graph, f"shift {shift:g}"


@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 1e5])
@pytest.mark.parametrize("name", ["knn4", "delaunay"])
@pytest.mark.parametrize("place", PLACES)
def test_the_unit_changes_no_graph(places, place: str, name: str, scale: float) -> None:
    assert search(name, places[place] * scale) == search(name, places[place])


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("place", PLACES)
def test_sorting_anew_sorts_the_graph_anew(places, place: str, name: str) -> None:
    pos = places[place]
    order = np.random.default_rng(2).permutation(len(pos))
    edge_index = SEARCHES[name](torch.from_numpy(pos[order]))
    assert pairs(torch.from_numpy(order)[edge_index]) == search(name, pos)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_few_points(name: str, n: int) -> None:
    pos = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.1], [1.2, 1.3]], dtype=torch.float64)[:n]
    edge_index = SEARCHES[name](pos)
    assert_tidy(edge_index, n)
    if n > 1:
        assert len(edge_index[1].unique()) == n


@pytest.mark.parametrize("k", [4, 5, 6, 100])
def test_fewer_points_than_k_join_all(k: int) -> None:
    pos = torch.from_numpy(np.random.default_rng(3).normal(size=(5, 2)))
    assert neighbor_search.knn(pos, k).shape == (2, 20)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("n", [2, 5, 60])
def test_points_at_one_place_join_each_other(name: str, n: int) -> None:
    edge_index = SEARCHES[name](torch.full((n, 2), 3.7, dtype=torch.float64))
    assert_tidy(edge_index, n)
    assert edge_index.shape[1] == n * (n - 1)


@pytest.mark.parametrize("name", SEARCHES)
def test_too_many_points_at_one_place_do_not_fill_memory(name: str) -> None:
    heap = np.concatenate([np.zeros((2500, 2)), np.random.default_rng(4).normal(size=(500, 2))])
    with pytest.raises(ValueError, match="share one position"):
        SEARCHES[name](torch.from_numpy(heap))


def test_absurd_radius_does_not_fill_memory() -> None:
    pos = torch.from_numpy(np.random.default_rng(4).uniform(0, 1, (3000, 2)))
    with pytest.raises(ValueError, match=r"3000 cells .* units of the positions"):
        neighbor_search.radius(pos, 1e6)


def test_delaunay_is_scipys_on_generic_points() -> None:
    pos = np.random.default_rng(5).normal(size=(100, 2))
    corners = Delaunay(pos).simplices
    expected = {(a, b) for t in corners.tolist() for a in t for b in t if a != b}
    assert search("delaunay", pos) == expected


def test_delaunay_of_a_square_lattice_has_no_diagonals(places) -> None:
    pos = places["square"]
    distance = cdist(pos, pos)
    expected = set(zip(*map(np.ndarray.tolist, np.nonzero(distance == 1)), strict=True))
    assert search("delaunay", pos) == expected


def test_delaunay_of_a_hexagonal_lattice_has_six_neighbours(places) -> None:
    pos = places["hexagonal"]
    length = cdist(pos, pos)
    near = {p for p in search("delaunay", pos) if length[p] < 1.01}
    expected = np.nonzero((length > 0) & (length < 1.01))
    assert near == set(zip(*map(np.ndarray.tolist, expected), strict=True))


@pytest.mark.parametrize("angle", [0, 0.3, 1.0, np.pi / 4, np.pi / 2, 2.0])
@pytest.mark.parametrize("shift", [0, 1e6])
@pytest.mark.parametrize("n", [2, 3, 30, 400])
def test_delaunay_of_a_line_is_a_chain(angle: float, shift: float, n: int) -> None:
    order = np.random.default_rng(6).permutation(n)
    line = turned(np.stack([np.arange(float(n)), np.zeros(n)], axis=1), angle, shift)
    chain = {(a, a + 1) for a in range(n - 1)}
    found = pairs(torch.from_numpy(order)[SEARCHES["delaunay"](torch.from_numpy(line[order]))])
    assert found == chain | {(b, a) for a, b in chain}


@pytest.mark.parametrize("length", [5, 60, 200])
def test_delaunay_leaves_no_cell_of_a_straight_tail_alone(places, length: int) -> None:
    tail = np.stack([np.arange(14.0, 14 + length), np.full(length, 4.0)], axis=1)
    pos = np.concatenate([places["square"], tail])
    graph = search("delaunay", pos)
    first = len(pos) - length
    assert all((i, i + 1) in graph for i in range(first, len(pos) - 1))
    assert search("delaunay", turned(pos, 0.7)) == graph


def test_delaunay_joins_the_straight_outline(places) -> None:
    pos = places["framed"]
    bottom = [i for i in np.lexsort(pos.T) if pos[i, 1] == 0]
    for angle in (0, 0.4, 2.2):
        graph = search("delaunay", turned(pos, angle))
        assert all(step in graph for step in pairwise(bottom))


def test_delaunay_duplicates_share_their_neighbours(places) -> None:
    pos = places["doubled"]
    site = np.unique(pos, axis=0, return_inverse=True)[1].ravel()
    graph = search("delaunay", pos)
    of_sites = {(site[a], site[b]) for a, b in graph}
    expected = {(a, b) for a in range(len(pos)) for b in range(len(pos)) if a != b}
    assert graph == {
        (a, b) for a, b in expected if site[a] == site[b] or (site[a], site[b]) in of_sites
    }


@pytest.mark.parametrize("place", PLACES)
def test_spacing_is_the_median_distance_to_the_sixth(places, place: str) -> None:
    pos = places[place]
    sites = np.unique(pos, axis=0)
    expected = np.median(np.sort(cdist(sites, sites), axis=1)[:, 6])
    assert neighbor_search.spacing(torch.from_numpy(pos)) == pytest.approx(expected, rel=1e-12)
    moved = turned(pos, 1.1, 1e4)
    assert neighbor_search.spacing(torch.from_numpy(moved)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1.5), (7, 3.5)])
def test_spacing_of_few_points(n: int, expected: float) -> None:
    line = torch.stack([torch.arange(float(n)), torch.zeros(n)], dim=1)
    found = neighbor_search.spacing(line)
    if n in (0, 1, 2):
        assert found == expected
    else:
        assert 0 < found <= n - 1


def test_search_of_torch_cluster_finds_the_same_distances(places) -> None:
    reason = "torch-cluster (extra [ext]) is not installed"
    pytest.importorskip("torch_cluster", reason=reason, exc_type=ImportError)
    assert gpu_search_unavailable() is None
    pos = places["random"]
    distance, index = neighbor_search._query_cluster(torch.from_numpy(pos), 9)
    between = cdist(pos, pos)
    np.testing.assert_allclose(distance, np.sort(between, axis=1)[:, :9], atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(between, index, 1), distance, atol=1e-12)


def test_without_torch_cluster_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbor_search, "torch_cluster", None)
    monkeypatch.setattr(neighbor_search, "_NO_CLUSTER", "told", raising=False)
    assert gpu_search_unavailable() == "told"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["knn12", "delaunay"])
def test_turning_changes_no_graph_of_real_slices(shared_data, name: str) -> None:
    import anndata

    slices = [anndata.read_h5ad(shared_data / "dlpfc_151673.h5ad").obsm["spatial"]]
    several = anndata.read_h5ad(shared_data / "her2st_labelled_8slices.h5ad")
    for one in several.obs["slice_id"].unique()[:4]:
        slices.append(several.obsm["spatial"][several.obs["slice_id"] == one])
    rng = np.random.default_rng(7)
    for pos in slices:
        pos = np.asarray(pos, dtype=np.float64)
        graph = SEARCHES[name](torch.from_numpy(pos))
        for shift in (0, 1e3, 1e6):
            moved = turned(pos, rng.uniform(-7, 7), rng.uniform(-shift, shift, 2))
            assert torch.equal(SEARCHES[name](torch.from_numpy(moved)), graph)


@pytest.mark.parametrize("place", PLACES)
def test_distinct_places(places, place: str) -> None:
    pos = np.round(places[place], 1)
    pos[:3] = [[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0]]
    np.testing.assert_array_equal(neighbor_search.unique_positions(pos), np.unique(pos, axis=0))
    assert len(neighbor_search.unique_positions(pos[:0])) == 0
