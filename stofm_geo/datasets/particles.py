"""Simulated charged particles in the plane."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from stofm_geo._validation import check_positive

_FEWEST, _MOST = 5, 20  # bodies of a system
_SOFTENING = 0.3  # added to distances, so that close encounters stay predictable
_DENSITY = 0.5  # bodies per unit of area at the start
_SPEED = 0.5  # standard deviation of a component of the velocity
_FIELD = 2.0  # angular velocity of a particle of charge 1 in the field, in radians per time unit
_TIME_STEP, _STEPS = 0.005, 200  # displacements after 1 time unit


def charged_particles(num_systems: int = 1000, *, drift: float = 0.0, seed: int = 0) -> list[Data]:
    r"""Simulate systems of 5 to 20 charged particles, half of them in a magnetic field.

    Particles of charge :math:`q = \pm 1` and mass 1 repel and attract each other, and turn in a
    field :math:`B` (0 or 2) perpendicular to the plane,

    .. math::
        \ddot p_i = \sum_j q_i q_j \frac{p_i - p_j}{(\lVert p_i - p_j \rVert^2 + 0.3^2)^{3/2}}
        + q_i B \, (\dot p_{i,y}, -\dot p_{i,x})

    The field turns all particles of a charge in the same sense. Displacements therefore rotate with
    the system, but those of its mirror image are not their mirror image. Trajectories are those of
    the Boris scheme (Boris 1970) with a time step of 0.005.

    Args:
        num_systems: Number of systems (default 1 000).
        drift: Mean velocity along the first axis at the start (default 0). If it is not 0, systems
            are alike up to a translation only, not up to a rotation.
        seed: Random seed (default 0).

    Returns:
        Complete graphs with ``x`` ``[N, 2]`` (charge; whether there is a field, 0 or 1), ``pos``
        ``[N, 2]``, ``vectors`` ``[N, 1, 2]`` (velocities), ``edge_index``, and ``y`` ``[N, 2]``,
        displacements after 1 time unit. Lengths are in units of the simulation.

    Raises:
        ValueError: ``num_systems`` is not positive.

    Examples:
        >>> from stofm_geo.datasets import charged_particles
        >>> system = charged_particles(2, seed=0)[0]
        >>> n = system.num_nodes
        >>> 5 <= n <= 20, system.num_edges == n * (n - 1), system.y.shape == (n, 2)
        (True, True, True)
    """
    check_positive("num_systems", num_systems, whole=True)
    random = np.random.default_rng(seed)
    sizes = random.integers(_FEWEST, _MOST + 1, num_systems)
    systems: list[Data | None] = [None] * num_systems
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        for row, data in zip(rows, _systems(len(rows), int(size), drift, random), strict=True):
            systems[row] = data
    return [data for data in systems if data is not None]


def _systems(number: int, size: int, drift: float, random: np.random.Generator) -> list[Data]:
    charge = random.choice([-1.0, 1.0], (number, size))
    field = np.arange(number) % 2
    radius = np.sqrt(size / (_DENSITY * np.pi) * random.random((number, size)))
    angle = random.uniform(0, 2 * np.pi, (number, size))
    start = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    velocity = random.normal([drift, 0], _SPEED, (number, size, 2))
    end = _simulate(start, velocity, charge, _FIELD * field)
    source, target = np.nonzero(~np.eye(size, dtype=bool))
    edge_index = torch.from_numpy(np.stack([source, target]))
    x = np.stack([charge, np.broadcast_to(field[:, None], charge.shape)], axis=2)
    columns = (torch.from_numpy(a).float() for a in (x, start, velocity[:, :, None], end - start))
    return [
        Data(x=features, pos=pos, vectors=vectors, edge_index=edge_index, y=displacement)
        for features, pos, vectors, displacement in zip(*columns, strict=True)
    ]


def _simulate(
    pos: np.ndarray, velocity: np.ndarray, charge: np.ndarray, field: np.ndarray
) -> np.ndarray:
    """Return positions ``[S, n, 2]`` at the end."""
    pos, velocity = pos + 0.5 * _TIME_STEP * velocity, velocity.copy()
    angle = -charge * field[:, None] * _TIME_STEP  # clockwise for a positive charge
    cos, sin = np.cos(angle), np.sin(angle)
    product = charge[:, :, None] * charge[:, None, :]
    for step in range(_STEPS):
        delta = pos[:, :, None] - pos[:, None]
        square = (delta**2).sum(axis=3) + _SOFTENING**2
        kick = 0.5 * _TIME_STEP * np.einsum("sij,sijd->sid", product * square**-1.5, delta)
        velocity += kick
        x, y = velocity[..., 0], velocity[..., 1]
        velocity = np.stack([cos * x - sin * y, sin * x + cos * y], axis=2) + kick
        pos += (1 if step < _STEPS - 1 else 0.5) * _TIME_STEP * velocity
    return pos
