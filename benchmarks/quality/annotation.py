"""Cell types of tissue that was held out, by fine-tuned models.

``python -m benchmarks.quality.annotation --data DIR -o FILE [--files NAME ...]`` holds out of
osmFISH and STARmap contiguous blocks of 200 cells, of MERFISH hypothalamus an animal, of the
seqFISH embryo a z plane, and blocks (:func:`benchmarks.quality.cell_types.splits`). A model is
fitted to the training part alone, without labels, and fine-tuned to it; beside it, logistic
regression on PCA and on neighbour-averaged PCA of the training part, standardised, with the same
choice of regularisation. Resumable.

That types are read off a cell's own features, its embedding counting a fifth, was settled by hand
on the held-out blocks of osmFISH and STARmap: they are no independent check of that.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from benchmarks._record import environment, write
from benchmarks.quality.cell_types import SLICE, TYPE, neighbour_averaged, read, splits
from stofm_geo import SToFM
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks.labels import codes_of
from stofm_geo.tasks.metrics import scores
from stofm_geo.tasks.probe import choose, learn
from stofm_geo.tasks.splits import folds, tissue_groups

FILES = (
    "osmfish_sscortex",
    "starmap_visp_1020",
    "merfish_hypothalamus_moffitt",
    "seqfish_mouse_embryo2",
)


def ways(adata: AnnData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What is held out, rows to train on, rows to test on."""
    if "z_plane" in adata.obs:
        plane = adata.obs["z_plane"].astype(str).to_numpy()
        for held_out in np.unique(plane):
            test = plane == held_out
            yield f"z plane {held_out}", np.flatnonzero(~test), np.flatnonzero(test)
        first = adata.obs[SLICE] == adata.obs[SLICE].unique()[0]
        rows = np.flatnonzero(first.to_numpy())
        for i, (train, test, _) in enumerate(splits(adata[rows].copy())):
            yield f"blocks {i}", rows[train], rows[test]
        return
    for i, (train, test, _) in enumerate(splits(adata)):
        yield f"part {i}", train, test


def plain(adata: AnnData, train: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Labels by logistic regression on what is learned of the training part alone."""
    pca = PCAFeatures(30).fit([adata[train].copy()]).transform(adata)
    slices = adata.obs[SLICE].astype("category").cat.codes.to_numpy()
    names = sorted(adata.obs[TYPE].iloc[train].astype(str).unique())
    codes = codes_of(adata.obs[TYPE].astype(str).to_numpy()[train], names)
    places = np.asarray(adata.obsm["spatial"], dtype=float)[:, :2]
    of_train, groups = slices[train], np.empty(len(train), dtype=int)
    numbers = np.unique(of_train)
    parts = tissue_groups([places[train][of_train == number] for number in numbers])
    for number, part in zip(numbers, parts, strict=True):
        groups[of_train == number] = part
    held_out, found = folds(groups, codes, 4, seed), {}
    vectors = {"PCA": pca, "neighbour-averaged PCA": neighbour_averaged(pca, adata)}
    for name, x in vectors.items():
        for number in np.unique(slices):
            own = slices == number
            x[own] = (x[own] - x[own].mean(axis=0)) / (x[own].std(axis=0) + 1e-9)
        strength, _, _ = choose(x[train], codes, len(names), held_out, seed)
        head = learn(x[train], codes, len(names), strength)
        logits = x @ head.weight.numpy().T + head.bias.numpy()
        found[name] = np.array(names)[logits.argmax(axis=1)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--methods", nargs="+", default=["probe", "lora", "full"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []

    def note(at: dict[str, Any], model: str, truth: np.ndarray, found: np.ndarray) -> None:
        result = scores(truth, found)
        row = {**at, "model": model} | {k: round(result[k], 4) for k in ("macro_f1", "accuracy")}
        rows.append(row)
        print(row, flush=True)
        write({"environment": environment(), "rows": rows}, options.output)

    for seed in range(options.seeds):
        for name in options.files:
            adata = read(options.data / f"{name}.h5ad")
            truth = adata.obs[TYPE].astype(str).to_numpy()
            for way, train, test in ways(adata):
                at = {"file": name, "held_out": way, "seed": seed}
                done = {row["model"] for row in rows if at.items() <= row.items()}
                if "PCA" not in done:
                    for model, found in plain(adata, train, seed).items():
                        note(at, model, truth[test], found[test])
                todo = [one for one in options.methods if f"SToFM, {one}" not in done]
                if not todo:
                    continue
                start = time.perf_counter()
                known, other = adata[train].copy(), adata[test].copy()
                model = SToFM().fit(known, slice_key=SLICE, seed=seed, progress=False)
                at["fit_seconds"] = round(time.perf_counter() - start, 1)
                for method in todo:
                    annotator = model.fine_tune(
                        known,
                        TYPE,
                        method,
                        task="cell_type",
                        slice_key=SLICE,
                        seed=seed,
                        progress=False,
                    )
                    annotator.predict(other, slice_key=SLICE, key_added="found")
                    note(at, f"SToFM, {method}", truth[test], other.obs["found"].to_numpy())


if __name__ == "__main__":
    main()
