"""Cell types by a linear probe on frozen vectors, of one model for all panels and both species.

``python -m benchmarks.quality.cell_types --data DIR --models DIR [--seeds N] [-o FILE]``
trains models on every .h5ad of a folder without labels (or takes those in ``--models`` that are
there), and probes three of them: MERFISH hypothalamus, trained on one animal and tested on the
other, and osmFISH and STARmap, trained on two thirds of blocks of 200 cells and tested on the rest.
Printed is the mean over the splits, ± its standard deviation over the seeds. All rows see the same
cells and have the same probe, whose strength of regularisation is chosen within the training cells,
by blocks or slices of their own.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stofm_geo import SToFM
from stofm_geo.benchmark.baselines import neighbour_averages
from stofm_geo.benchmark.datasets import read_without_duplicates
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.data import split_slices
from stofm_geo.genes import PCAFeatures, harmonize
from stofm_geo.tasks.splits import contiguous_blocks

PROBED = ("merfish_hypothalamus_moffitt", "osmfish_sscortex", "starmap_visp_1020")
STRENGTHS = (0.01, 0.1, 1.0)
SLICE, TYPE, ANIMAL = "slice_id", "cell_type", "animal_id"


def model_of(folder: Path, adatas: dict[str, AnnData], steps: int, seed: int) -> SToFM:
    """The model in a folder; if there is none, it is trained and put there."""
    if not folder.is_dir():
        model = SToFM(encoder="panel", organism="auto", n_components=50)
        model.fit(
            list(adatas.values()),
            slice_key=SLICE,
            max_steps=steps,
            seed=seed,
            names=list(adatas),
        )
        model.save_pretrained(folder)
    return SToFM.from_pretrained(folder)


def splits(adata: AnnData) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows to train on, rows to test on, and the group of each cell for choices within."""
    if ANIMAL in adata.obs:
        animal = adata.obs[ANIMAL].astype(str).to_numpy()
        group = adata.obs[SLICE].astype("category").cat.codes.to_numpy()
        for name in np.unique(animal):
            yield np.flatnonzero(animal != name), np.flatnonzero(animal == name), group
    else:
        group = contiguous_blocks(adata.obsm["spatial"][:, :2])
        order = np.random.default_rng(0).permutation(group.max() + 1)
        for held_out in np.array_split(order, 3):
            test = np.isin(group, held_out)
            yield np.flatnonzero(~test), np.flatnonzero(test), group


def probe(vectors: np.ndarray, adata: AnnData, label_key: str = TYPE) -> list[float]:
    """Macro-F1 on each split, over the labels that its training cells have."""
    label = adata.obs[label_key].astype(str).to_numpy()
    scores = []
    for train, test, group in splits(adata):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
            {"logisticregression__C": STRENGTHS},
            scoring="f1_macro",
            cv=GroupKFold(2),
        )
        search.fit(vectors[train], label[train], groups=group[train])
        found = search.predict(vectors[test])
        known = np.unique(label[train])
        scores.append(float(f1_score(label[test], found, labels=known, average="macro")))
    return scores


def embedded(model: SToFM, adata: AnnData) -> dict[str, Any]:
    """What the model knows of a file, and how long it takes to embed it."""
    start = time.perf_counter()
    model.embed(adata, slice_key=SLICE, key_added="z")
    report = harmonize(adata).uns["stofm_genes"]
    return {
        "organism": report["organism"],
        "cells": adata.n_obs,
        "genes": report["n_genes"],
        "genes_matched": report["n_matched"],
        "share_of_counts": round(report["share_of_counts"], 4),
        "all_finite": bool(np.isfinite(adata.obsm["z"]).all()),
        "seconds": round(time.perf_counter() - start, 1),
    }


def learned(model: SToFM, adata: AnnData) -> dict[str, np.ndarray]:
    """What a model gives, by name; in the order of ``adata``, which has its embedding."""
    encoded = np.empty((adata.n_obs, model.encoder.out_channels), dtype=np.float32)
    for part in split_slices(harmonize(adata), slice_key=SLICE):
        encoded[part.row] = model.encoder.transform(part)
    return {
        "SToFM, embedding": adata.obsm["z"],
        "SToFM, its columns of the cell itself": adata.obsm["z"][:, : encoded.shape[1]],
        "PanelEncoder alone": encoded,
    }


def plain(adata: AnnData) -> dict[str, np.ndarray]:
    """What is learned of the one file alone."""
    pca = PCAFeatures(50).fit([adata]).transform(adata)
    beside = np.concatenate([pca] * 3, axis=1)
    for rows in adata.obs.groupby(SLICE, observed=True).indices.values():
        beside[rows] = neighbour_averages(pca[rows], adata.obsm["spatial"][rows])
    return {"PCA": pca, "neighbour-averaged PCA": beside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of .h5ad files.")
    parser.add_argument("--models", type=Path, required=True, help="Folder of models, one a seed.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge.*")
    adatas = {path.stem: read_without_duplicates(path) for path in sorted(args.data.glob("*.h5ad"))}
    result: dict[str, Any] = {**environment(), "training": [], "files": {}}
    scores: dict[str, dict[str, list[list[float]]]] = {
        name: {row: [probe(z, adatas[name])] for row, z in plain(adatas[name]).items()}
        for name in PROBED
    }
    for seed in range(args.seeds):
        start = time.perf_counter()
        model = model_of(args.models / f"seed{seed}", adatas, args.steps, seed)
        seconds = round(time.perf_counter() - start)
        result["training"].append({**model.training_record, "seconds": seconds})
        for name, adata in adatas.items():
            result["files"][name] = embedded(model, adata)
            print(f"seed {seed}, {name}: {result['files'][name]}", flush=True)
        for name in PROBED:
            for row, z in learned(model, adatas[name]).items():
                scores[name].setdefault(row, []).append(probe(z, adatas[name]))
        result["macro_f1"] = scores  # a seed, a split
        if args.output is not None:
            write_result(result, args.output)
    print(f"| | {' | '.join(PROBED)} |\n|{'---|' * (len(PROBED) + 1)}")
    for row in scores[PROBED[0]]:
        each = [np.array(scores[name][row]) for name in PROBED]
        cells = [f"{s.mean():.3f} ± {s.mean(axis=1).std():.3f}" for s in each]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
