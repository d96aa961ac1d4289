"""Domains without labels on real slices, by the command a user types.

``python -m benchmarks.quality.domains --data DIR -o benchmarks/results/domains.json`` runs
``stofm-geo embed`` on every .h5ad file of a folder, in a process of its own, and notes seconds,
peak memory and whether every number is finite. Where ``obs["region"]`` knows the answer it notes
the adjusted Rand index, for several seeds, beside that of principal components and of their
neighbour averages under the same clustering. Labels are used for scoring only. Resumable: what the
output file has already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData, read_h5ad
from sklearn.metrics import adjusted_rand_score

from benchmarks._record import environment, write
from stofm_geo import tl
from stofm_geo.data import split_slices
from stofm_geo.genes import PCAFeatures
from stofm_geo.nn import niche
from stofm_geo.transforms import SpatialKNN

# Files whose slices need telling apart, and labels that are worth several seeds.
SLICE_KEY = "slice_id"
SEEDED = ("dlpfc_151673", "dlpfc_151674", "osmfish_sscortex", "starmap_visp_1020")


def score(adata: AnnData, use_rep: str, seed: int, slice_key: list[str]) -> dict[str, float]:
    """ARI before and after the neighbours' vote."""
    known = adata.obs["region"].notna().to_numpy()
    region = adata.obs["region"][known].astype(str)
    options = {"slice_key": slice_key[1]} if slice_key else {}
    found = {}
    for name, refine in (("ari_raw", False), ("ari", True)):
        tl.domains(
            adata,
            region.nunique(),
            use_rep=use_rep,
            refine=refine,
            seed=seed,
            key_added="found",
            **options,
        )
        found[name] = round(adjusted_rand_score(region, adata.obs["found"][known]), 4)
    return found


def command(file: Path, seed: int, slice_key: list[str]) -> dict[str, Any]:
    """One run of ``stofm-geo embed``."""
    adata = read_h5ad(file, backed="r")
    labelled = "region" in adata.obs
    n_domains = adata.obs["region"].nunique() if labelled else 8
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5ad"
        arguments = ["embed", str(file), "-o", str(out), "--n-domains", str(n_domains)]
        arguments += ["--seed", str(seed), *slice_key, "--plot", str(Path(folder) / "out.png")]
        arguments += ["--label-key", "region"] if labelled else []
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "stofm_geo", *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        row: dict[str, Any] = {"model": "SToFM", "file": file.stem, "seed": seed}
        row["commit"] = environment()["commit"]
        row |= {"cells": adata.n_obs, "genes": adata.n_vars, "exit": status}
        row |= {"seconds": round(seconds, 1), "peak_gb": round(usage.ru_maxrss / 2**20, 2)}
        if status == 0:
            done = read_h5ad(out)
            row["finite"] = bool(np.isfinite(done.obsm["X_stofm"]).all())
            if labelled:
                row |= score(done, "X_stofm", seed, slice_key)
    return row


def baselines(file: Path, seed: int) -> list[dict[str, Any]]:
    """Principal components, and their averages over the graph, of a file with one slice."""
    adata = read_h5ad(file)
    part = split_slices(adata)[0]
    features = PCAFeatures(30).fit([part])
    x = torch.from_numpy(features.transform(part))
    graph = SpatialKNN(12).search(torch.from_numpy(part.obsm["spatial"]))
    rows = []
    for name, vectors in (("PCA", x), ("neighbour-averaged PCA", niche(x, graph))):
        adata.obsm["X"] = np.empty(vectors.shape, dtype=np.float32)
        adata.obsm["X"][part.obs["row"].to_numpy()] = vectors.numpy()
        row = {"model": name, "file": file.stem, "seed": seed}
        rows.append(row | score(adata, "X", seed, []))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []

    def note(new: list[dict[str, Any]]) -> None:
        rows.extend(new)
        print(*new, sep="\n", flush=True)
        write({"environment": environment(), "rows": rows}, options.output)

    files = sorted(options.data.glob("*.h5ad"), key=lambda f: (f.stem not in SEEDED, f.stem))
    for file in files:
        n_slices = read_h5ad(file, backed="r").obs[SLICE_KEY].nunique()
        slice_key = ["--slice-key", SLICE_KEY] if n_slices > 1 else []
        for seed in range(options.seeds if file.stem in SEEDED else 1):
            done = {row["model"] for row in rows if (row["file"], row["seed"]) == (file.stem, seed)}
            if "SToFM" not in done:
                note([command(file, seed, slice_key)])
            if "PCA" not in done and file.stem in SEEDED:
                note(baselines(file, seed))


if __name__ == "__main__":
    main()
