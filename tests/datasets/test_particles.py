"""Simulated particles: physics, handedness and rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from stofm_geo.datasets import charged_particles, particles, rotate_graphs


def test_graphs_are_complete_and_a_seed_gives_the_same() -> None:
    systems = charged_particles(30, seed=3)
    sizes = {data.num_nodes for data in systems}
    assert len(systems) == 30 and min(sizes) >= 5 and max(sizes) <= 20 and len(sizes) > 5
    for data in systems:
        assert data.num_edges == data.num_nodes * (data.num_nodes - 1)
        assert data.vectors.shape == (data.num_nodes, 1, 2) and data.y.shape == data.pos.shape
        assert set(data.x[:, 0].tolist()) <= {-1.0, 1.0} and data.x[:, 1].unique().numel() == 1
    again = charged_particles(30, seed=3)
    assert all(torch.equal(a.y, b.y) for a, b in zip(systems, again, strict=True))
    assert {float(data.x[0, 1]) for data in systems} == {0.0, 1.0}


def simulate(pos, velocity, charge, field) -> np.ndarray:
    given = (np.asarray(part, dtype=float)[None] for part in (pos, velocity, charge))
    return particles._simulate(*given, np.array([field], dtype=float))[0]


def test_a_single_particle_goes_straight_or_in_a_circle() -> None:
    time = particles._TIME_STEP * particles._STEPS
    straight = simulate([[1.0, 2.0]], [[0.5, -1.0]], [1.0], 0.0)
    np.testing.assert_allclose(straight, [[1 + 0.5 * time, 2 - time]], atol=1e-9)
    for charge in (1.0, -1.0):
        found = simulate([[0.0, 0.0]], [[1.0, 0.0]], [charge], 2.0)
        angle = -charge * 2.0 * time  # clockwise for a positive charge
        expected = np.array([[np.sin(angle), 1 - np.cos(angle)]]) / angle * time
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_like_charges_repel_and_momentum_is_kept() -> None:
    pos, still = [[-0.5, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
    apart, near = (simulate(pos, still, [1.0, q], 0.0) for q in (1.0, -1.0))
    assert apart[1, 0] - apart[0, 0] > 1 > near[1, 0] - near[0, 0]
    np.testing.assert_allclose(apart.sum(axis=0), 0, atol=1e-12)


def test_a_rotated_system_moves_as_rotated_and_a_mirrored_one_does_not() -> None:
    random = np.random.default_rng(0)
    pos, velocity = random.normal(size=(2, 6, 2))
    charge = random.choice([-1.0, 1.0], 6)
    move = simulate(pos, velocity, charge, 2.0) - pos
    rotation = np.array([[0.6, 0.8], [-0.8, 0.6]])
    rotated = simulate(pos @ rotation, velocity @ rotation, charge, 2.0) - pos @ rotation
    np.testing.assert_allclose(rotated, move @ rotation, atol=1e-9)
    mirror = np.diag([-1.0, 1.0])
    for field, same in ((0.0, True), (2.0, False)):
        move = simulate(pos, velocity, charge, field) - pos
        mirrored = simulate(pos @ mirror, velocity @ mirror, charge, field) - pos @ mirror
        assert np.allclose(mirrored, move @ mirror, atol=1e-9) == same


def test_rotations_turn_positions_vectors_and_targets_together() -> None:
    (data,) = charged_particles(1)
    (turned,) = rotate_graphs([data], seed=1)
    before = torch.cat([data.pos, data.vectors[:, 0], data.y]).double()
    after = torch.cat([turned.pos, turned.vectors[:, 0], turned.y]).double()
    torch.testing.assert_close(after @ after.t(), before @ before.t(), atol=1e-4, rtol=1e-4)
    cross = before[:1, 0] * before[1:2, 1] - before[:1, 1] * before[1:2, 0]
    of_rotated = after[:1, 0] * after[1:2, 1] - after[:1, 1] * after[1:2, 0]
    torch.testing.assert_close(of_rotated, cross, atol=1e-4, rtol=1e-4)  # no mirror image
    assert not torch.allclose(turned.pos, data.pos)
    assert torch.equal(turned.x, data.x)
    (again,) = rotate_graphs([data], seed=1)
    assert torch.equal(again.pos, turned.pos)


def test_what_cannot_be_rotated_is_refused() -> None:
    for pos in (torch.zeros(3, 2).long(), torch.zeros(3, 3)):
        with pytest.raises(ValueError, match=r"pos must be floating-point \[N, 2\]; found"):
            rotate_graphs([Data(pos=pos)], seed=0)
    data = Data(pos=torch.ones(3, 2), y=torch.ones(1, 2))  # a target of the graph
    assert torch.equal(rotate_graphs([data], seed=0)[0].y, data.y)


def test_a_drift_is_along_the_first_axis() -> None:
    velocity = torch.cat([d.vectors[:, 0] for d in charged_particles(300, drift=2.0)])
    assert abs(float(velocity[:, 0].mean()) - 2) < 0.05 > abs(float(velocity[:, 1].mean()))
