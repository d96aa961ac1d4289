"""Made-up tissue with the shape of files of instruments: cells, genes, counts, empty area."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

_BLOCK = 50_000  # cells whose counts are drawn at once


@dataclass(frozen=True)
class Instrument:
    """Shape of a data set.

    Attributes:
        cells: Cells or bins of a slice, the empty ones included.
        genes: Genes.
        counts: Molecules of a cell, on average.
        slices: Slices, each a file.
        lattice: Spacing of bins in micrometres; ``None``: cells, 10 micrometres apart on average.
        empty: Share of the area without tissue; a lattice has bins there, without counts.
    """

    cells: int
    genes: int
    counts: int
    slices: int = 1
    lattice: float | None = None
    empty: float = 0.0


INSTRUMENTS = {
    "Visium HD, 8 um": Instrument(500_000, 18_000, 110, lattice=8.0, empty=1 / 3),
    "Xenium 5K": Instrument(1_000_000, 5_000, 250),
    "Stereo-seq, bin 50": Instrument(300_000, 24_000, 400, lattice=25.0, empty=0.2),
    "100 slices": Instrument(20_000, 500, 120, slices=100),
}
_REGIONS = 8


def make(instrument: Instrument, folder: Path, seed: int = 0) -> list[Path]:
    """Write the slices of an instrument as ``.h5ad`` files; each has ``obs["region"]``."""
    files = []
    for number in range(instrument.slices):
        file = folder / f"slice{number:03d}.h5ad"
        _slice(instrument, np.random.default_rng([seed, number]), seed).write_h5ad(file)
        files.append(file)
    return files


def _slice(instrument: Instrument, rng: np.random.Generator, seed: int) -> AnnData:
    pos = _positions(instrument, rng)
    region, inside = _regions(pos, instrument.empty, rng)
    profiles = _profiles(instrument.genes, seed)
    blocks = []
    for start in range(0, len(pos), _BLOCK):
        rows = slice(start, start + _BLOCK)
        blocks.append(_counts(region[rows], inside[rows], profiles, instrument.counts, rng))
    names = [f"gene{i}" for i in range(instrument.genes)]
    obs = pd.DataFrame(
        {"region": pd.Categorical.from_codes(region, [f"region {i}" for i in range(_REGIONS)])},
        index=np.arange(len(pos)).astype(str),
    )
    return anndata.AnnData(
        sp.vstack(blocks, format="csr"), obs, pd.DataFrame(index=names), obsm={"spatial": pos}
    )


def _positions(instrument: Instrument, rng: np.random.Generator) -> np.ndarray:
    """Return positions ``[n, 2]`` in micrometres."""
    side = int(np.ceil(np.sqrt(instrument.cells)))
    if instrument.lattice is None:
        return rng.uniform(0, 10.0 * side, (instrument.cells, 2))
    y, x = np.divmod(np.arange(instrument.cells), side)
    return np.stack([x, y], axis=1) * instrument.lattice


def _regions(
    pos: np.ndarray, empty: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the region of each cell, bands with wavy borders, and whether it is tissue."""
    x, y = ((pos - pos.min(axis=0)) / np.ptp(pos, axis=0).max()).T
    wave = 0.05 * np.sin(2 * np.pi * (3 * x + rng.uniform()))
    depth = np.clip(y + wave, 0, 1 - 1e-9)
    radius = np.hypot(x - 0.5, y - 0.5) if empty else np.zeros(len(pos))
    inside = radius <= np.quantile(radius, 1 - empty)
    return (depth * _REGIONS).astype(np.int8), inside


def _profiles(genes: int, seed: int) -> np.ndarray:
    """Return cumulative expression of each region, ``[regions, genes]``, alike in all slices."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.5, genes)
    changed = rng.random((_REGIONS, genes)) < 0.1
    share = base * np.where(changed, rng.lognormal(0, 1, (_REGIONS, genes)), 1)
    return np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)


def _counts(
    region: np.ndarray,
    inside: np.ndarray,
    profiles: np.ndarray,
    mean: int,
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """Draw molecules: a cell's number is negative binomial, their genes as its region's profile."""
    number = np.where(inside, rng.negative_binomial(3, 3 / (3 + mean), len(region)), 0)
    cell = np.repeat(np.arange(len(region)), number)
    gene = np.empty(len(cell), dtype=np.int32)
    kind = region[cell]
    for k, profile in enumerate(profiles):
        mine = kind == k
        drawn = np.searchsorted(profile, rng.random(int(mine.sum())))
        gene[mine] = np.minimum(drawn, len(profile) - 1)
    shape = len(region), profiles.shape[1]
    return sp.csr_matrix((np.ones(len(cell), dtype=np.float32), (cell, gene)), shape=shape)
