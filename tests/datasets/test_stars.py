from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from stofm_geo.datasets import toy_stars
from stofm_geo.nn import SE2TransformerConv


def seen(data: Data) -> Tensor:
    """What a layer that knows values and distances can see of a star, in an order of its own."""
    src, dst = data.edge_index
    length = (data.pos[src] - data.pos[dst]).norm(dim=1)
    rows = torch.cat([data.x[src], data.x[dst], length[:, None]], dim=1).double()
    return torch.tensor(sorted(map(tuple, (1e4 * rows).round().tolist())))


def test_direction_has_the_same_values_at_the_same_distance() -> None:
    for data in toy_stars("direction", 20):
        values = data.x[1:, 2].sort().values
        torch.testing.assert_close(values, -values.flip(0))
        assert (data.x[:, 2][data.x[:, 1] == 1] == 0).all()
        length = (data.pos[1:] - data.pos[0]).norm(dim=1)
        torch.testing.assert_close(length, torch.ones(8))
        assert (data.edge_index[1] == 0).all()


def test_chirality_is_a_mirror_image() -> None:
    one, other = toy_stars("chirality", 2)
    assert (one.y, other.y) == (0, 1)
    assert torch.equal(seen(one), seen(other))


def test_labels_are_even_and_seeds_repeat() -> None:
    for kind in ("direction", "chirality"):
        first, again, other = (toy_stars(kind, 40, seed=seed) for seed in (1, 1, 2))
        assert sum(int(data.y) for data in first) == 20
        assert all(torch.equal(a.pos, b.pos) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0].pos, other[0].pos)
        for data in first:
            data.validate()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"kind": "left"}, ValueError, "kind must be one of .*'chirality'.*; found 'left'"),
        ({"kind": "direction", "num_graphs": 0}, ValueError, "num_graphs must be above zero"),
        ({"kind": "direction", "num_graphs": 1.5}, TypeError, "num_graphs must be a whole"),
    ],
)
def test_bad_arguments(kwargs, error, message) -> None:
    with pytest.raises(error, match=message):
        toy_stars(**kwargs)


class Net(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.first = SE2TransformerConv(4, 8, heads=2, **options)
        self.second = SE2TransformerConv(16, 8, heads=2, **options)
        self.out = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, data: Data) -> Tensor:
        x = self.first(data.x, data.edge_index, pos=data.pos).relu()
        x = self.second(x, data.edge_index, pos=data.pos).relu()
        return self.out(x[data.ptr[:-1]])


def accuracy(kind: str, **options) -> float:
    torch.manual_seed(0)
    train, test = (Batch.from_data_list(toy_stars(kind, 100, seed=seed)) for seed in (0, 1))
    net = Net(**options)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(70):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train), train.y).backward()
        optimizer.step()
    return float((net(test).argmax(dim=1) == test.y).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["direction", "chirality"])
def test_vectors_learn_what_distances_cannot(kind: str) -> None:
    assert accuracy(kind, vector_channels=4) > 0.95
    assert accuracy(kind) < 0.6


@pytest.mark.slow
def test_with_reflections_chirality_cannot_be_learnt_but_direction_can() -> None:
    assert accuracy("direction", vector_channels=4, reflections=True) > 0.95
    assert accuracy("chirality", vector_channels=4, reflections=True) < 0.6
