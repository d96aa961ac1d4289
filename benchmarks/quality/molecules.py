"""Molecules that no model has seen: what the network predicts, beside the mean and linear averages.

``python -m benchmarks.quality.molecules --data DIR -o benchmarks/results/molecules.json``

A fifth of each cell's molecules is split off before anything else; models are fitted to the rest.
Errors are mean squares over the first 30 principal axes of the rest's fractions, each divided by
the root of the gene's share of all molecules; along these axes, the rest has a standard deviation
of 1 in the mean. Much of an error is counting noise, which nobody can predict. Genes are those with
counts in ten cells or more. The ridge reads the niche, components beside their means over one and
two steps, as the network does; its strength is the best of five on the molecules that are scored,
which flatters it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from stofm_geo import SToFM
from stofm_geo.benchmark.datasets import read_without_duplicates
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.genes.splitting import split_counts

FILES = (
    "merfish_mop_zhuang_4slices",
    "merfish_hypothalamus_moffitt",
    "osmfish_sscortex",
    "verafish_hippocampus",
    "seqfish_mouse_embryo2",
    "starmap_visp_1020",
    "cosmx_lung_profast",
    "xenium_breast_voltron",
    "slideseqv2_hippocampus_crop",
    "dlpfc_151673",
    "dlpfc_151674",
    "st_mouse_olfactory_bulb",
)
SHARE, MIN_CELLS, COMPONENTS = 0.2, 10, 30
KEY = "slice_id"
TARGET, DRAWS, STRENGTHS = 0.25, 2, (10.0, 100.0, 1e3, 1e4, 1e5)  # of the ridge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of .h5ad files.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--files", nargs="*", default=FILES)
    args = parser.parse_args()
    rows = []
    for name in args.files:
        adata = first_slice(read_without_duplicates(args.data / f"{name}.h5ad"), name)
        for seed in range(args.seeds):
            rows.append({"file": name, "seed": seed, **measure(adata, seed)})
            print(rows[-1], flush=True)
            write_result({**environment(), "rows": rows}, args.output)


def first_slice(adata: AnnData, name: str) -> AnnData:
    """Return the cells to fit to: one slice of the largest file, all of others."""
    if name != "merfish_hypothalamus_moffitt":
        return adata
    return adata[adata.obs[KEY] == "animal1_bregma-0.09"].copy()


class ErrorAxes:
    """Axes along which errors are measured; made of training molecules alone.

    Args:
        counts: Counts ``[n, G]``.
        total: Expected sum of each cell, ``[n]``.
        size: Number of axes.
    """

    def __init__(self, counts: sp.csr_matrix, total: np.ndarray, size: int) -> None:
        share = np.asarray(counts.sum(axis=0)).ravel() / counts.sum()
        self.weight = 1 / np.sqrt(share)
        rows = sp.csr_matrix(self._rows(counts, total))
        self.axes = PCA(size, svd_solver="arpack", random_state=0).fit(rows).components_.T
        self.centre = np.asarray(rows.mean(axis=0)).ravel() @ self.axes
        self.scale = 1.0
        self.scale = float(self(counts, total).std())

    def _rows(self, counts: sp.csr_matrix | np.ndarray, total: np.ndarray) -> Any:
        total = np.maximum(total, 1)
        if isinstance(counts, np.ndarray):
            return counts / total[:, None] * self.weight
        return sp.diags_array(1 / total) @ counts @ sp.diags_array(self.weight)

    def __call__(self, counts: sp.csr_matrix | np.ndarray, total: np.ndarray) -> np.ndarray:
        """Return coordinates along the axes, ``[n, size]``."""
        return (self._rows(counts, total) @ self.axes - self.centre) / self.scale


def measure(adata: AnnData, seed: int) -> dict[str, float]:
    """Return errors on molecules held out, and of the fit."""
    counts = sp.csr_matrix(adata.X).astype(np.float32)
    adata = adata[:, np.diff(counts.tocsc().indptr) >= MIN_CELLS].copy()
    counts = sp.csr_matrix(adata.X).astype(np.float32)
    counts.sort_indices()
    held_out, train = split_counts(counts, SHARE, np.random.default_rng(seed))
    total = np.asarray(counts.sum(axis=1)).ravel()
    size = min(COMPONENTS, adata.n_vars - 1)
    axes = ErrorAxes(train, (1 - SHARE) * total, size)
    true = axes(held_out, SHARE * total)
    adata.X = train
    key = KEY if KEY in adata.obs and adata.obs[KEY].nunique() > 1 else None
    start = time.perf_counter()
    model = SToFM().fit(adata, seed=seed, slice_key=key, progress=False)
    seconds = time.perf_counter() - start
    model.embed(adata, slice_key=key, progress=False)
    network, z = model.network, adata.obsm["X_stofm"]
    niche, denoised = (z[:, slice(*network.columns[part])] for part in ("niche", "denoised"))
    found = axes(network.targets.decode(denoised), np.ones(len(denoised)))

    inputs, targets = [], []
    for draw in range(DRAWS):
        target, visible = split_counts(train, TARGET, np.random.default_rng((seed, draw)))
        thinned = adata.copy()
        thinned.X = visible
        model.embed(thinned, slice_key=key, progress=False)
        inputs.append(thinned.obsm["X_stofm"][:, : niche.shape[1]])
        targets.append(axes(target, TARGET * (1 - SHARE) * total))
    x, y = np.concatenate(inputs), np.concatenate(targets)
    ridges = (Ridge(alpha=strength).fit(x, y).predict(niche) for strength in STRENGTHS)
    record = model.training_record
    return {
        "mean": float(np.square(true).mean()),
        "ridge": min(float(np.square(predicted - true).mean()) for predicted in ridges),
        "stofm": float(np.square(found - true).mean()),
        "best_step": record["best_step"],
        "steps": record["steps"],
        "fit_seconds": round(seconds, 1),
        "loss": record["molecule_loss"],
        "loss_of_averages": record["molecule_loss_of_averages"],
        "loss_of_mean": record["molecule_loss_of_mean"],
    }


if __name__ == "__main__":
    main()
