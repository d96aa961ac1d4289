"""Genes told from other genes: held out of one slice, learned from another or another part.

``python -m benchmarks.quality.imputation --data DIR -o benchmarks/results/imputation.json`` hides a
fifth of the genes at a time (five folds, drawn by the seed) in STARmap (one half of the slice, cut
along the cortex's depth, from the other half), in seqFISH (plane z5 from z2) and in CosMx (field 6
from field 1), and correlates what is told, gene by gene, with log-normalised counts: Pearson's and
Spearman's, means over all genes. Against the mean of the nearest cells on the shared genes (10 and
50 neighbours, cosine, and Euclidean distances of 30 principal components; all four are shown), and
Tangram where it is installed (``pip install tangram-sc``), with all shared genes and 500 epochs:
its clusters are the cell types, its cells those of the reference; seed 0 alone, and cells not in
seqFISH, where they take hours on a CPU. Resumable.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from benchmarks._record import environment, write
from stofm_geo import tl
from stofm_geo.tasks._blends import correlations

FILES = {
    "starmap_visp_1020": None,
    "seqfish_mouse_embryo2": ("embryo2_z2", "embryo2_z5"),
    "cosmx_lung_profast": ("slide1_fov1", "slide1_fov6"),
}
FOLDS = 5


def parts(folder: Path, file: str) -> tuple[AnnData, AnnData]:
    """Reference and target."""
    adata = read_h5ad(folder / f"{file}.h5ad")
    if FILES[file]:
        return tuple(adata[adata.obs["slice_id"] == name].copy() for name in FILES[file])
    pos = adata.obsm["spatial"] - adata.obsm["spatial"].mean(axis=0)
    across = pos @ np.linalg.svd(pos, full_matrices=False)[2][1]  # the short side
    left = across < np.median(across)
    return adata[left].copy(), adata[~left].copy()


def logs(cells: AnnData, genes: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Log-normalised by the sum over these genes; to their median, or to ``scale``."""
    x = cells.X.toarray().astype(float)
    total = x[:, genes].sum(axis=1, keepdims=True)
    return np.log1p(x / np.maximum(total, 1) * (scale or np.median(total)))


def stofm(reference: AnnData, target: AnnData, held: np.ndarray) -> tuple[np.ndarray, Any]:
    shared = np.setdiff1d(np.arange(target.n_vars), held)
    cells = target[:, shared].copy()
    tl.impute(cells, reference, list(reference.var_names[held]))
    reliability = cells.uns["stofm_imputed"]["reliability"]["correlation"].to_numpy()
    return cells.obsm["stofm_imputed"].to_numpy(dtype=float), reliability


def neighbours(k: int, metric: str):
    """The mean of the nearest cells of the reference."""

    def run(reference: AnnData, target: AnnData, held: np.ndarray) -> tuple[np.ndarray, Any]:
        shared = np.setdiff1d(np.arange(target.n_vars), held)
        there = logs(reference, shared)
        scale = float(np.median(np.asarray(reference.X[:, shared].sum(axis=1))))
        a, b = there[:, shared], logs(target, shared, scale)[:, shared]
        if metric == "euclidean":
            pca = PCA(30, random_state=0).fit(np.concatenate([a, b]))
            a, b = pca.transform(a), pca.transform(b)
        near = NearestNeighbors(n_neighbors=k, metric=metric).fit(a)
        return there[:, held][near.kneighbors(b)[1]].mean(axis=1), None

    return run


def tangram(mode: str):
    """Tangram's own call; of clusters, those of ``obs["cell_type"]``."""

    def run(reference: AnnData, target: AnnData, held: np.ndarray) -> tuple[np.ndarray, Any]:
        import tangram as tg

        shared = np.setdiff1d(np.arange(target.n_vars), held)
        single = AnnData(logs(reference, shared).astype(np.float32), var=reference.var[[]])
        single.obs["cell_type"] = pd.Categorical(reference.obs["cell_type"].astype(str))
        space = AnnData(logs(target, shared)[:, shared].astype(np.float32))
        space.var_names = target.var_names[shared]
        tg.pp_adatas(single, space, genes=None)
        label = "cell_type" if mode == "clusters" else None
        mapped = tg.map_cells_to_space(
            single,
            space,
            mode=mode,
            cluster_label=label,
            num_epochs=500,
            random_state=0,
            verbose=False,
        )
        found = tg.project_genes(mapped, single, cluster_label=label).to_df()
        # It drops genes that the reference never counted.
        names = target.var_names[held].str.lower()
        return found.reindex(columns=names, fill_value=0).to_numpy(dtype=float), None

    return run


METHODS = {
    "tl.impute": stofm,
    "kNN, 10, cosine": neighbours(10, "cosine"),
    "kNN, 50, cosine": neighbours(50, "cosine"),
    "kNN, 10, PCA": neighbours(10, "euclidean"),
    "kNN, 50, PCA": neighbours(50, "euclidean"),
    "Tangram, clusters": tangram("clusters"),
    "Tangram, cells": tangram("cells"),
}


def ranks(x: np.ndarray) -> np.ndarray:
    return np.apply_along_axis(rankdata, 0, x)


def score(run, reference: AnnData, target: AnnData, seed: int) -> dict[str, float]:
    """Means over all genes, each held out once."""
    folds = np.array_split(np.random.default_rng(seed).permutation(target.n_vars), FOLDS)
    truth = logs(target, np.arange(target.n_vars))
    pearson, spearman, expected = [], [], []
    for held in folds:
        found, reliability = run(reference.copy(), target.copy(), np.sort(held))
        right = truth[:, np.sort(held)]
        pearson.append(correlations(found, right))
        spearman.append(correlations(ranks(found), ranks(right)))
        expected.append(reliability)
    r = np.concatenate(pearson)
    scores = {"pearson": r.mean(), "spearman": np.concatenate(spearman).mean()}
    scores["pearson_median"] = np.median(r)
    if expected[0] is not None:
        told = np.concatenate(expected)
        scores["expected"] = told.mean()
        scores["expected_and_found"] = np.corrcoef(told, r)[0, 1]
    return {name: round(float(value), 4) for name, value in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    if options.output.exists():
        rows = json.loads(options.output.read_text())["rows"]
    there = importlib.util.find_spec("tangram") is not None
    record = environment()
    record["versions"]["tangram-sc"] = metadata.version("tangram-sc") if there else "not there"
    runs = [
        (seed, file, method)
        for method in METHODS  # Tangram, which takes longest, at the end
        for seed in range(options.seeds)
        for file in FILES
        if not method.startswith("Tangram") or (there and seed == 0)
        if (method, file) != ("Tangram, cells", "seqfish_mouse_embryo2")
    ]
    for seed, file, method in runs:
        what = {"method": method, "file": file, "seed": seed}
        if any(what.items() <= row.items() for row in rows):
            continue
        reference, target = parts(options.data, file)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # Tangram talks
            scores = score(METHODS[method], reference, target, seed)
        what |= {"cells_of_reference": reference.n_obs, "cells": target.n_obs}
        rows.append({**what, **scores, "seconds": round(time.perf_counter() - start, 1)})
        print(rows[-1], flush=True)
        write({"environment": record, "summary": summary(rows), "rows": rows}, options.output)
    print(pd.DataFrame(summary(rows)).to_string())


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds."""
    values = ["pearson", "spearman", "pearson_median"]
    groups = pd.DataFrame(rows).groupby(["file", "method"])[values]
    mean, spread = groups.mean().round(4), groups.std(ddof=0).round(4).add_suffix("_std")
    return pd.concat([mean, spread], axis=1).reset_index().to_dict("records")


if __name__ == "__main__":
    main()
