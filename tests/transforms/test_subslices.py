from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.transforms import JoinMacroNodes, MacroNodes, SpatialKNN, SubSlices
from tests.helpers import turned, unchanged

PLACES = ["square", "hexagonal", "anisotropic", "holed", "framed", "random", "doubled"]


def tissue(pos: np.ndarray, k: int = 5, **more: torch.Tensor) -> Data:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(len(pos), 4))).float()
    return SpatialKNN(k)(Data(x=x, pos=torch.from_numpy(pos), **more))


def cores(subslices: list[Data]) -> list[list[int]]:
    return [subslice.n_id[subslice.core_mask].tolist() for subslice in subslices]


def flat(lists: list[list[int]]) -> list[int]:
    return [item for one in lists for item in one]


def in_neighbours(data: Data, ids: torch.Tensor) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {i: set() for i in ids.tolist()}
    src, dst = ids[data.edge_index]
    for a, b in zip(src.tolist(), dst.tolist(), strict=True):
        found[b].add(a)
    return found


def test_input_stays_as_it_was(places) -> None:
    data = MacroNodes(max_nodes=3)(tissue(places["random"]))
    with unchanged(data):
        SubSlices(50)(data)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("num_cells", [1, 7, 40, 64, 1000])
def test_each_cell_is_core_once_and_sizes_are_even(places, place: str, num_cells: int) -> None:
    n = len(places[place])
    subslices = SubSlices(num_cells)(tissue(places[place]))
    assert sorted(flat(cores(subslices))) == list(range(n))
    sizes = [int(subslice.core_mask.sum()) for subslice in subslices]
    assert len(subslices) == -(-n // num_cells)
    assert max(sizes) <= num_cells
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n", [1, 2, 3, 99, 101, 199, 201, 307, 997])
def test_no_tiny_pieces_at_any_size(n: int) -> None:
    pos = np.random.default_rng(n).uniform(0, 10, (n, 2))
    sizes = [int(p.core_mask.sum()) for p in SubSlices(100)(tissue(pos))]
    assert sum(sizes) == n and max(sizes) <= 100
    assert min(sizes) >= min(n, 50)


@pytest.mark.parametrize("halo", [1, 2])
@pytest.mark.parametrize("place", ["hexagonal", "random", "doubled"])
def test_core_cells_see_what_they_see_in_the_whole_slice(places, place: str, halo: int) -> None:
    data = MacroNodes(max_nodes=3)(tissue(places[place]))
    data.edge_attr = torch.arange(data.num_edges)
    data.colour = torch.rand(data.num_nodes)
    whole = in_neighbours(data, torch.arange(data.num_nodes))
    for subslice in SubSlices(30, halo)(data):
        for key in ("x", "pos", "colour", "node_type", "cluster_size"):
            assert torch.equal(subslice[key], data[key][subslice.n_id]), key
        inside = in_neighbours(subslice, subslice.n_id)
        near = set(subslice.n_id[subslice.core_mask].tolist())
        for _ in range(halo):
            assert all(inside[i] == whole[i] for i in near)
            near |= {j for i in near for j in whole[i] if data.node_type[j] == NodeType.CELL}
        cells = subslice.n_id[subslice.node_type == NodeType.CELL]
        assert set(cells.tolist()) == near
        # Edges are induced, sorted, and their attributes go with them.
        assert torch.equal(
            subslice.n_id[subslice.edge_index], data.edge_index[:, subslice.edge_attr]
        )
        present = torch.zeros(data.num_nodes, dtype=torch.bool)
        present[subslice.n_id] = True
        assert subslice.num_edges == present[data.edge_index].all(dim=0).sum()
        code = subslice.edge_index[1] * subslice.num_nodes + subslice.edge_index[0]
        assert (code[1:] > code[:-1]).all()


def test_no_halo(places) -> None:
    for subslice in SubSlices(30, halo=0)(tissue(places["random"])):
        assert subslice.core_mask.all()


def test_virtual_nodes_are_in_every_piece_and_core_in_none(places) -> None:
    data = MacroNodes(max_nodes=3)(tissue(places["random"]))
    virtual = (data.node_type != NodeType.CELL).nonzero().view(-1)
    for subslice in SubSlices(50)(data):
        kind = subslice.node_type != NodeType.CELL
        assert torch.equal(subslice.n_id[kind], virtual)
        assert not subslice.core_mask[kind].any()
        cells = subslice.cluster >= 0
        assert torch.equal(cells, ~kind)
        assert torch.equal(
            subslice.n_id[subslice.cluster[cells]], data.cluster[subslice.n_id[cells]]
        )
        assert torch.equal(subslice.cluster_size, data.cluster_size[subslice.n_id])


def test_slices_are_cut_apart(places) -> None:
    pos = places["random"]
    which = torch.from_numpy(np.random.default_rng(1).integers(0, 3, len(pos)))
    data = MacroNodes(max_nodes=2)(tissue(pos, slice_id=which))
    data.slice_names = ["a", "b", "c"]
    subslices = SubSlices(30)(data)
    assert [int(p.slice_id[0]) for p in subslices] == sorted(int(p.slice_id[0]) for p in subslices)
    for subslice in subslices:
        assert len(subslice.slice_id.unique()) == 1
        assert (subslice.node_type == NodeType.CLS).sum() == 1
        assert subslice.slice_names == ["a", "b", "c"]
    assert sorted(flat(cores(subslices))) == list(range(len(pos)))


def test_numbers_of_nodes_are_those_of_the_source(places) -> None:
    data = tissue(places["random"], n_id=1000 + torch.arange(len(places["random"])))
    subslices = SubSlices(60)(data)
    assert sorted(flat(cores(subslices))) == list(range(1000, 1000 + data.num_nodes))
    again = SubSlices(25)(subslices[0])
    assert set(flat(cores(again))) == set(subslices[0].n_id.tolist())


@pytest.mark.parametrize("num_cells", [10, 33, 64])
@pytest.mark.parametrize("place", PLACES)
def test_turning_and_shifting_changes_no_piece(places, place: str, num_cells: int) -> None:
    cut = SubSlices(num_cells)
    expected = cut(tissue(places[place]))
    for angle, shift in [
        (0.3, 0),
        (1.1, 1e6),
        (np.pi / 2, 1e3),
        (np.pi, 0),
        (np.pi / 4, 3),
        (5, 1),
    ]:
        subslices = cut(tissue(turned(places[place], angle, shift)))
        assert cores(subslices) == cores(expected)
        for one, other in zip(subslices, expected, strict=True):
            assert torch.equal(one.edge_index, other.edge_index)


@pytest.mark.parametrize("place", ["holed", "framed", "random"])
def test_sorting_anew_changes_no_piece_without_ties(places, place: str) -> None:
    pos = (
        places["random"]
        if place == "random"
        else places[place] + 1e-2 * places["random"][: len(places[place])]
    )
    order = np.random.default_rng(3).permutation(len(pos))
    first = cores(SubSlices(30)(tissue(pos)))
    second = [sorted(order[core].tolist()) for core in cores(SubSlices(30)(tissue(pos[order])))]
    assert sorted(second) == sorted(map(sorted, first))


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 12)])
def test_pieces_are_compact(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    pos = rng.uniform(0, 1, (3000, 2)) * np.multiply(shape, 10)
    subslices = SubSlices(100)(tissue(pos))
    area = np.prod(shape) * 100 / len(subslices)
    for subslice in subslices:
        own = subslice.pos[subslice.core_mask]
        reach = (own - own.mean(dim=0)).norm(dim=1).max()
        assert reach < 2.2 * np.sqrt(area / np.pi)


def test_one_place_and_no_edges() -> None:
    heap = SubSlices(10)(tissue(np.zeros((25, 2)), k=3))
    assert [int(p.core_mask.sum()) for p in heap] == [8, 8, 9]
    bare = Data(pos=torch.rand(20, 2), edge_index=torch.empty(2, 0, dtype=torch.long))
    assert sorted(flat(cores(SubSlices(6)(bare)))) == list(range(20))


def test_many_cells_make_small_pieces() -> None:
    pos = np.random.default_rng(5).uniform(0, 100, (20_000, 2))
    data = MacroNodes()(tissue(pos, k=6))
    subslices = SubSlices(250)(data)
    assert len(subslices) == 80
    assert max(subslice.num_nodes for subslice in subslices) < 450  # 250 cores, halo, virtual nodes
    assert sum(subslice.num_edges for subslice in subslices) < 2 * data.num_edges


def test_it_ends_a_chain_of_transforms(places) -> None:
    data = Data(x=torch.rand(220, 3), pos=torch.from_numpy(places["random"]))
    subslices = Compose([SpatialKNN(4), MacroNodes(max_nodes=2), SubSlices(100)])(data)
    assert len(subslices) == 3 and all(isinstance(subslice, Data) for subslice in subslices)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"SubSlices needs data.edge_index; run SpatialKNN\(\)"):
        SubSlices()(Data(pos=torch.rand(3, 2)))
    with pytest.raises(ValueError, match="num_cells must be above zero; found 0"):
        SubSlices(0)
    with pytest.raises(ValueError, match="halo must be zero or more; found -1"):
        SubSlices(halo=-1)
    with pytest.raises(TypeError, match="num_cells must be a whole number"):
        SubSlices(10.5)  # type: ignore[arg-type]


@pytest.mark.shared
def test_turning_changes_no_piece_of_real_slices(shared_data) -> None:
    import anndata

    adata = anndata.read_h5ad(shared_data / "her2st_labelled_8slices.h5ad")
    first = adata.obs["slice_id"] == adata.obs["slice_id"].iloc[0]
    visium = anndata.read_h5ad(shared_data / "dlpfc_151673.h5ad").obsm["spatial"]
    for pos, most in [(adata.obsm["spatial"][first], 100), (visium, 600)]:
        pos = np.asarray(pos, dtype=np.float64)
        expected = cores(SubSlices(most)(tissue(pos)))
        for angle, shift in [(0.7, 0), (2, 1e6), (np.pi / 2, -1e4)]:
            assert cores(SubSlices(most)(tissue(turned(pos, angle, shift)))) == expected


@pytest.mark.parametrize("slices", [1, 2])
def test_pieces_joined_one_by_one_are_those_of_the_joined_slice(slices: int) -> None:
    pos = np.random.default_rng(4).uniform(0, 20, (500, 2))
    data = tissue(pos, slice_id=torch.arange(500) % slices)
    cut = SubSlices(60, halo=2)
    whole = cut(MacroNodes(max_nodes=4)(data))
    lazily = cut.lazily(MacroNodes(max_nodes=4, join=False)(data), JoinMacroNodes())
    assert len(lazily) == len(whole)
    for subslice, expected in zip(lazily, whole, strict=True):
        assert set(subslice.keys()) == set(expected.keys())
        for name, value in expected:
            same = torch.equal if isinstance(value, torch.Tensor) else int.__eq__
            assert same(subslice[name], value), name


def test_a_piece_asked_for_twice_is_cut_twice() -> None:
    subslices = SubSlices(60).lazily(tissue(np.random.default_rng(4).uniform(0, 20, (500, 2))))
    first = subslices[3]
    first.x.zero_()
    assert subslices[3].x.any()
    assert len(list(subslices)) == len(subslices) == 9
    with pytest.raises(IndexError):
        subslices[9]
