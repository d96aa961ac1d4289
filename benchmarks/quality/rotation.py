"""How much embeddings and weights change when slices are turned and shifted.

``python -m benchmarks.quality.rotation --data DIR -o benchmarks/results/rotation.json``: lattices
(Visium, ST) and single cells, three random rotations for each size of shift with one model, and two
rotations with a model fitted anew.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData, read_h5ad

from stofm_geo import SToFM
from stofm_geo.benchmark.records import environment, write_result

SLICES = {"dlpfc_151673": None, "st_mouse_olfactory_bulb": None, "cosmx_lung_profast": "slice_id"}
SHIFTS = (0.0, 1e3, 1e6, 1e9, 1e12)
STEPS = 25  # enough for every weight to matter


def turned(adata: AnnData, shift: float, rng: np.random.Generator) -> AnnData:
    """A copy, turned by a random angle and shifted by ``shift`` of its units."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    copy = adata.copy()
    copy.obsm["spatial"] = adata.obsm["spatial"] @ np.array([[cos, -sin], [sin, cos]])
    copy.obsm["spatial"] += shift * np.array([1, -0.7])
    return copy


def measure(file: Path, slice_key: str | None, rng: np.random.Generator) -> list[dict[str, Any]]:
    adata = read_h5ad(file)
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(np.float64)

    def fitted(slices: AnnData) -> SToFM:
        return SToFM().fit(slices, slice_key=slice_key, max_steps=STEPS, progress=False)

    model = fitted(adata)
    model.embed(adata, slice_key=slice_key)
    rows = []
    for shift in SHIFTS:
        change = []
        for _ in range(3):
            other = turned(adata, shift, rng)
            model.embed(other, slice_key=slice_key)
            change.append(float(np.abs(other.obsm["X_stofm"] - adata.obsm["X_stofm"]).max()))
        rows.append({"file": file.stem, "shift": shift, "largest_change": max(change)})
    same = [
        fitted(turned(adata, 1e4, rng)).weights_hash() == model.weights_hash() for _ in range(2)
    ]
    return [*rows, {"file": file.stem, "shift": 1e4, "fitted_anew_same_weights": all(same)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    rows = []
    for name, slice_key in SLICES.items():
        rows += measure(options.data / f"{name}.h5ad", slice_key, rng)
        print(*rows[-len(SHIFTS) - 1 :], sep="\n", flush=True)
    write_result({"environment": environment(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
