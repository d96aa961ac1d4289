"""A synthetic tissue with known regions."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

_SPACING_UM = 13.0  # side of the square that one cell has to itself, on average
_R_IN, _R_OUT, _HALF_ANGLE = 0.9, 1.9, 0.62  # the slice is a sector of a ring, like a gyrus
_VESSELS = ((1.62, -0.33, 0.075), (1.12, -0.12, 0.05))  # radius, angle, size of the empty holes
_LESION = "Lesion"
_SHARED_TYPES = ("Astrocyte", "Endothelial", "Macrophage", "Oligodendrocyte", "T cell")
_CHUNK_VALUES = 4_000_000  # cells x genes held dense at once: tens of MB for any size


def toy_tissue(
    n_cells: int = 2000,
    n_genes: int = 200,
    n_slices: int = 1,
    *,
    n_layers: int = 5,
    seed: int = 0,
) -> ad.AnnData:
    """Make a layered, cortex-like tissue whose regions are known.

    Curved layers of uneven thickness are crossed by a round lesion and two vessels.
    Every region has its own mixture of cell types. A cell's counts depend mostly on its type and a
    little on its depth and region, so a cell by itself carries little information on its position,
    and its neighbourhood much. The slices are cuts of one tissue, each with its own rotation,
    shift, lesion size and mild batch effect, and each in its own coordinate frame: slices overlap
    in ``obsm["spatial"]``, and only ``obs["slice_id"]`` separates them.

    Args:
        n_cells: Number of cells (default 2 000); slices share them as evenly as possible.
        n_genes: Number of genes (default 200).
        n_slices: Number of slices, at most ``n_cells`` (default 1).
        n_layers: Number of layers (default 5); the regions are these and the lesion.
        seed: Random seed; the same seed and arguments give the same bytes (on one NumPy version).

    Returns:
        AnnData of ``n_cells`` x ``n_genes`` with

        - ``X``: counts, CSR int32;
        - ``obs["region"]``: ``"L1"`` (outermost) ... ``"L<n_layers>"``, ``"Lesion"``;
        - ``obs["cell_type"]``: one ``"Neuron<k>"`` a layer and five types found in all regions;
        - ``obs["slice_id"]``: ``"slice1"`` ...;
        - ``obs["depth"]``: 0 at the outer surface, 1 at the inner one, float64;
        - ``obsm["spatial"]``: ``[n_cells, 2]`` float64, micrometres, about 13 um from cell to cell;
        - ``uns["spatial_unit"]``: ``"um"``; ``uns["toy"]``: the arguments.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is too small, or there are more slices than cells.

    Examples:
        >>> from stofm_geo.datasets import toy_tissue
        >>> adata = toy_tissue(200, 30, n_slices=2, seed=0)
        >>> adata.shape, adata.obs["slice_id"].value_counts(sort=False).to_dict()
        ((200, 30), {'slice1': 100, 'slice2': 100})
        >>> adata.obs["region"].cat.categories.tolist()
        ['L1', 'L2', 'L3', 'L4', 'L5', 'Lesion']
    """
    arguments = {"n_cells": n_cells, "n_genes": n_genes, "n_slices": n_slices, "n_layers": n_layers}
    for name, value in {**arguments, "seed": seed}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, found {value!r}")
        lowest = {"n_layers": 2, "seed": 0}.get(name, 1)
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, found {value}")
    if n_slices > n_cells:
        raise ValueError(
            f"n_slices={n_slices} slices cannot share n_cells={n_cells} cells: "
            "give at least one cell a slice"
        )

    rng = np.random.default_rng(seed)
    anatomy = _Anatomy.draw(n_layers, rng)
    sizes = np.full(n_slices, n_cells // n_slices)
    sizes[: n_cells % n_slices] += 1
    slices = [_place_cells(int(n), anatomy, turned=i > 0, rng=rng) for i, n in enumerate(sizes)]
    xy, depth, region = (np.concatenate(parts) for parts in zip(*slices, strict=True))
    slice_code = np.repeat(np.arange(n_slices), sizes)

    mixture, type_names = _cell_type_mixture(n_layers)
    cell_type = (rng.random(n_cells)[:, None] > np.cumsum(mixture, axis=1)[region, :-1]).sum(axis=1)
    counts = _draw_counts(cell_type, region, depth, slice_code, n_genes, n_layers, rng)

    slice_names = [f"slice{i + 1}" for i in range(n_slices)]
    obs = pd.DataFrame(
        {
            "region": pd.Categorical.from_codes(region, anatomy.region_names),
            "cell_type": pd.Categorical.from_codes(cell_type, type_names),
            "slice_id": pd.Categorical.from_codes(slice_code, slice_names),
            "depth": depth,
        },
        index=[f"cell{i:07d}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"Gene{i + 1:04d}" for i in range(n_genes)])
    uns = {
        "spatial_unit": "um",
        "toy": {name: int(value) for name, value in {**arguments, "seed": seed}.items()},
    }
    return ad.AnnData(X=counts, obs=obs, var=var, obsm={"spatial": xy}, uns=uns)


@dataclass(frozen=True)
class _Anatomy:
    """Geometry that all slices share. Positions are in tissue units: the ring is 1 thick."""

    boundaries: np.ndarray  # depths at which the layers meet, [n_layers - 1]
    density: np.ndarray  # relative cell density of every region, the lesion last
    phases: np.ndarray  # of the waves that bend surfaces, layers and lesion, [5]

    @classmethod
    def draw(cls, n_layers: int, rng: np.random.Generator) -> _Anatomy:
        thickness = rng.uniform(0.6, 1.6, n_layers)
        density = rng.uniform(0.7, 1.3, n_layers + 1)
        density[0], density[-1] = 0.5, 1.5  # an almost empty outer layer, a crowded lesion
        return cls(
            boundaries=np.cumsum(thickness)[:-1] / thickness.sum(),
            density=density,
            phases=rng.uniform(0, 2 * np.pi, 5),
        )

    @property
    def region_names(self) -> list[str]:
        return [f"L{i + 1}" for i in range(len(self.boundaries) + 1)] + [_LESION]

    def depth(self, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Return the depth of a position; outside the tissue it is below 0 or above 1."""
        waves = [np.sin(k * angle + p) for k, p in zip((5, 4, 3, 7), self.phases[:4], strict=True)]
        outer, inner = _R_OUT + 0.06 * waves[0], _R_IN + 0.05 * waves[1]
        flat = (outer - radius) / (outer - inner)
        # The bend vanishes at both surfaces and stays monotone in depth, so layers never cross.
        return flat + (0.09 * waves[2] + 0.03 * waves[3]) * np.sin(np.pi * flat)

    def in_lesion(self, x: np.ndarray, y: np.ndarray, growth: float) -> np.ndarray:
        dx, dy = x - 1.42 * np.sin(0.24), y - 1.42 * np.cos(0.24)
        around = np.arctan2(dy, dx)
        edge = 1 + 0.13 * np.sin(2 * around + self.phases[4]) + 0.08 * np.sin(5 * around)
        return np.hypot(dx, dy) < 0.23 * growth * edge


def _place_cells(
    n: int, anatomy: _Anatomy, turned: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place one slice: coordinates [n, 2] in um, depth [n], region code [n], in random order."""
    growth = rng.uniform(0.85, 1.15)
    area = _HALF_ANGLE * (_R_OUT**2 - _R_IN**2)
    candidates_per_cell = 1.8
    x = y = depth = np.empty(0)
    while len(x) < 1.3 * n:  # more than once only for a handful of cells
        pitch = np.sqrt(area / (candidates_per_cell * n))
        x, y = _jittered_lattice(pitch, rng)
        angle = np.arctan2(x, y)
        depth = anatomy.depth(np.hypot(x, y), angle)
        keep = (depth >= 0) & (depth <= 1) & (np.abs(angle) <= _HALF_ANGLE)
        for radius, vessel_angle, size in _VESSELS:
            dx, dy = x - radius * np.sin(vessel_angle), y - radius * np.cos(vessel_angle)
            keep &= np.hypot(dx, 0.7 * dy) > size
        x, y, depth = x[keep], y[keep], depth[keep]
        candidates_per_cell *= 1.5

    region = np.searchsorted(anatomy.boundaries, depth, side="right")
    region[anatomy.in_lesion(x, y, growth)] = len(anatomy.boundaries) + 1
    # Gumbel top-n: exactly n cells, without replacement, each place in proportion to its density.
    score = np.log(anatomy.density[region]) + 0.7 * x + rng.gumbel(size=len(x))
    # Sorted, since the order of a partition depends on the instructions of the processor.
    chosen = rng.permutation(np.sort(np.argpartition(-score, n - 1)[:n]))
    x, y = x[chosen], y[chosen]

    # Image coordinates have y downwards, so the outer surface has the smallest y.
    scale = _SPACING_UM * np.sqrt(n / area)
    xy = scale * np.column_stack([x, _R_OUT - y])
    if turned:
        turn = rng.uniform(-np.pi, np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        xy = xy @ rotation.T
    xy += rng.uniform(0, 0.3 * scale, 2) - xy.min(axis=0)
    return xy, depth[chosen], region[chosen]


def _jittered_lattice(pitch: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cover the tissue's bounding box with a noisy hexagonal lattice (cells do not overlap)."""
    side = pitch * np.sqrt(2 / np.sqrt(3))
    half_width, low, high = 1.35, 0.6, 2.1
    column, row = np.meshgrid(
        np.arange(np.ceil(2 * half_width / side) + 1),
        np.arange(np.ceil((high - low) / (side * np.sqrt(3) / 2)) + 1),
    )
    x = (column + 0.5 * (row % 2)).ravel() * side - half_width
    y = row.ravel() * side * np.sqrt(3) / 2 + low
    jitter = rng.uniform(-0.33 * side, 0.33 * side, (2, len(x)))
    return x + jitter[0], y + jitter[1]


def _cell_type_mixture(n_layers: int) -> tuple[np.ndarray, list[str]]:
    """Return the fraction of each type in each region, [n_layers + 1, n_types], and the types."""
    layer = np.arange(n_layers)
    neurons = np.exp(-0.5 * ((layer[:, None] - layer) / 0.75) ** 2)
    neurons = np.vstack([neurons, np.ones(n_layers)])
    neurons /= neurons.sum(axis=1, keepdims=True)
    share = np.full(n_layers + 1, 0.7)
    share[-1] = 0.3
    inward = layer / (n_layers - 1)
    others = np.zeros((n_layers + 1, len(_SHARED_TYPES)))
    others[:-1] = np.column_stack(
        [
            0.5 - 0.2 * inward,
            np.full(n_layers, 0.15),
            np.full(n_layers, 0.08),
            0.1 + 0.5 * inward,
            np.full(n_layers, 0.03),
        ]
    )
    others[-1] = 0.15, 0.1, 0.35, 0.05, 0.35
    others /= others.sum(axis=1, keepdims=True)
    mixture = np.hstack([share[:, None] * neurons, (1 - share)[:, None] * others])
    return mixture, [f"Neuron{i + 1}" for i in range(n_layers)] + list(_SHARED_TYPES)


def _draw_counts(
    cell_type: np.ndarray,
    region: np.ndarray,
    depth: np.ndarray,
    slice_code: np.ndarray,
    n_genes: int,
    n_layers: int,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Draw counts [n_cells, n_genes] from gamma-Poisson, a chunk of cells at a time."""

    def effect(rows: int, scale: float, share: float) -> np.ndarray:
        """Log fold changes [rows, n_genes], of which ``share`` are not 0."""
        size = rng.normal(0, scale, (rows, n_genes))
        return (size * (rng.random((rows, n_genes)) < share)).astype(np.float32)

    of_type = effect(n_layers + len(_SHARED_TYPES), 1.0, 0.3)
    of_type[:n_layers] = 0.55 * of_type[:n_layers] + effect(1, 1.0, 0.3)  # neurons are alike
    of_type += rng.uniform(-1.6, 1.6, n_genes).astype(np.float32)
    of_region = effect(n_layers + 1, 0.5, 0.25)
    along_depth = effect(3, 0.45, 0.25)
    of_slice = effect(int(slice_code[-1]) + 1, 0.12, 1.0)
    slice_depth = np.exp(rng.normal(0, 0.1, len(of_slice)))
    shape = rng.uniform(1.5, 5, n_genes)  # inverse overdispersion of the gamma-Poisson

    n_cells = len(cell_type)
    # Wider panels are read less deeply a gene, as in real platforms.
    library = 400 * np.sqrt(n_genes / 200) * np.exp(rng.normal(0, 0.4, n_cells))
    library *= slice_depth[slice_code]
    waves = np.column_stack([depth - 0.5, np.sin(np.pi * depth), np.sin(2 * np.pi * depth)])
    waves = waves.astype(np.float32)

    data, indices = np.empty(0, np.int32), np.empty(0, np.int32)
    row_ends = np.zeros(n_cells + 1, np.int64)
    step = max(1, _CHUNK_VALUES // n_genes)
    for start in range(0, n_cells, step):
        at = slice(start, start + step)
        mean = np.exp(
            of_type[cell_type[at]]
            + of_region[region[at]]
            + of_slice[slice_code[at]]
            + waves[at] @ along_depth
        )
        mean *= (library[at] / mean.sum(axis=1))[:, None].astype(np.float32)
        mean *= rng.standard_gamma(shape, size=mean.shape) / shape
        chunk = sparse.csr_matrix(rng.poisson(mean).astype(np.int32))
        filled = len(data)
        row_ends[start + 1 : start + 1 + chunk.shape[0]] = filled + chunk.indptr[1:]
        # Grown in place: concatenating chunks at the end would double the peak memory.
        for whole, part in ((data, chunk.data), (indices, chunk.indices)):
            whole.resize(filled + len(part), refcheck=False)
            whole[filled:] = part
    return sparse.csr_matrix((data, indices, row_ends), shape=(n_cells, n_genes))
