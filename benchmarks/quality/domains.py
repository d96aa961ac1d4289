"""Domains without labels: the same clusterings for all vectors, several seeds.

``python -m benchmarks.quality.domains --data DIR -o benchmarks/results/domains.json`` scores the
vectors of each model on each slice under each clustering by the adjusted Rand index and by
normalised mutual information against expert regions, with their true number, before and after the
neighbours' vote of ``tl.domains``. Labels are used for scoring only. ``--model NAME`` adds what
``SToFM.from_pretrained`` knows, and is not fitted to the slice. Vectors are kept in the folder
``--vectors``, as ``MODEL--FILE--SEED.npy`` (``[n, D]``, rows as in the file, duplicates dropped);
what other programs have left there under names of their own is scored, too. Resumable: rows that
the output file has are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData, read_h5ad
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from benchmarks._record import environment, write
from benchmarks.quality._clusterings import CLUSTERINGS, components, of_library
from stofm_geo import SToFM
from stofm_geo.data import split_slices
from stofm_geo.genes import PCAFeatures
from stofm_geo.nn import niche
from stofm_geo.tasks.domains import places, vote
from stofm_geo.transforms import SpatialKNN

FILES = ("dlpfc_151673", "dlpfc_151674", "osmfish_sscortex", "starmap_visp_1020")
LIBRARY = "tl.domains"


def read(file: Path) -> AnnData:
    """A slice, each cell once."""
    adata = read_h5ad(file)
    if "is_duplicate" in adata.obs:
        adata = adata[~adata.obs["is_duplicate"].to_numpy(dtype=bool)].copy()
    return adata


def principal(adata: AnnData, averaged: bool) -> np.ndarray:
    """Principal components, or also their means over one and two steps of the graph."""
    part = split_slices(adata)[0]
    x = torch.from_numpy(PCAFeatures(30).fit([part]).transform(part))
    if averaged:
        x = niche(x, SpatialKNN(12).search(torch.from_numpy(part.obsm["spatial"])))
    vectors = np.empty(x.shape, dtype=np.float32)
    vectors[part.obs["row"].to_numpy()] = x.numpy()
    return vectors


def fitted(adata: AnnData, seed: int, **settings: Any) -> np.ndarray:
    model = SToFM(**settings).fit(adata, seed=seed, progress=False)
    model.embed(adata)
    return adata.obsm["X_stofm"]


def pretrained(adata: AnnData, seed: int, name: str) -> np.ndarray:
    SToFM.from_pretrained(name).embed(adata)
    return adata.obsm["X_stofm"]


# What makes vectors of a slice and a seed; whether the seed matters.
MODELS: dict[str, tuple[Callable[[AnnData, int], np.ndarray], bool]] = {
    "PCA": (lambda adata, _: principal(adata, False), False),
    "neighbour-averaged PCA": (lambda adata, _: principal(adata, True), False),
    "SToFM": (fitted, True),
    "SToFM, panel": (lambda adata, s: fitted(adata, s, encoder="panel", organism="auto"), True),
}


def made(path: Path, adata: AnnData, model: str, seed: int) -> np.ndarray:
    """Vectors ``[n, D]`` from ``path``, where they are put first if they are not there."""
    if not path.exists():
        start = time.perf_counter()
        vectors = MODELS[model][0](adata, seed)
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        np.save(path, vectors)
    return np.load(path)


def scores(adata: AnnData, vectors: np.ndarray, clustering: str, seed: int) -> dict[str, float]:
    """ARI and NMI, before and after the vote."""
    known = adata.obs["region"].notna().to_numpy()
    region = adata.obs["region"][known].astype(str)
    count = region.nunique()
    if clustering == LIBRARY:
        adata.obsm["vectors"] = vectors
        label = of_library(adata, count, seed)
    else:
        label = CLUSTERINGS[clustering](components(vectors), count, seed)
    found = {"domains": int(label.max()) + 1}
    for name, after in (("", label), ("_vote", vote(label, places(adata, "spatial", None)))):
        found["ari" + name] = round(adjusted_rand_score(region, after[known]), 4)
        found["nmi" + name] = round(normalized_mutual_info_score(region, after[known]), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--vectors", type=Path, required=True, help="folder to keep vectors in")
    parser.add_argument("--seeds", type=int, default=3, help="of fits")
    parser.add_argument("--reseeds", type=int, default=5, help="of clusterings of each fit")
    parser.add_argument("--model", action="append", default=[], help="of from_pretrained")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.vectors.mkdir(parents=True, exist_ok=True)
    for name in options.model:
        MODELS[Path(name).name] = (partial(pretrained, name=name), False)
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    keys = ("model", "file", "seed", "clustering", "reseed")
    done = {tuple(row[key] for key in keys) for row in rows}
    for file in FILES:
        adata = read(options.data / f"{file}.h5ad")
        jobs = {
            (m, seed)
            for m, (_, seeded) in MODELS.items()
            for seed in range(options.seeds if seeded else 1)
        }
        for path in options.vectors.glob(f"*--{file}--*.npy"):
            model, _, seed = path.stem.split("--")
            jobs.add((model, int(seed)))
        for model, seed in sorted(jobs):
            path = options.vectors / f"{model}--{file}--{seed}.npy"
            vectors = made(path, adata, model, seed)
            for clustering in [LIBRARY, *CLUSTERINGS]:
                # One reseeding where there is nothing to reseed, or where ten starts are drawn.
                once = clustering in (LIBRARY, "Ward, mixture")
                for reseed in range(1 if once else options.reseeds):
                    row = dict(zip(keys, (model, file, seed, clustering, reseed), strict=True))
                    if tuple(row.values()) not in done:
                        rows.append(row | scores(adata, vectors, clustering, reseed))
                        print(rows[-1], flush=True)
            write({"environment": environment(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
