"""Cell types of pseudo-spots whose cells are known, from a slice of another animal or plane.

``python -m benchmarks.quality.deconvolution --data DIR -o benchmarks/results/deconvolution.json``
cuts slices of single cells into squares of 55 and 100 um, turned and shifted by the seed, sums each
one's counts, and asks what is in them: MERFISH hypothalamus from another animal's slice at the same
depth, seqFISH embryo from its other z plane, both ways. ``other platform`` draws a factor for each
gene (lognormal, 0.5) and keeps 30 % of the counts. Against scipy's non-negative least squares on
mean counts, and flashdeconv as it comes (``pip install flashdeconv``; left out where it is not
installed). Resumable: what the output file has already is not run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from scipy.optimize import nnls
from scipy.spatial.distance import jensenshannon

from benchmarks._record import environment, write
from stofm_geo import tl

SLICE, TYPE = "slice_id", "cell_type"
# File, reference, target, micrometres a unit: an seqFISH field of view, 1.06 units, has 2048
# pixels of 0.103 um.
PAIRS = (
    ("merfish_hypothalamus_moffitt", "animal1_bregma-0.09", "animal7_bregma-0.09", 1.0),
    ("merfish_hypothalamus_moffitt", "animal7_bregma-0.09", "animal1_bregma-0.09", 1.0),
    ("seqfish_mouse_embryo2", "embryo2_z2", "embryo2_z5", 200.0),
    ("seqfish_mouse_embryo2", "embryo2_z5", "embryo2_z2", 200.0),
)
SIDES = (55, 100)
CONDITIONS = ("as counted", "other platform")


def squares(cells: AnnData, unit: float, side: float, seed: int) -> tuple[AnnData, pd.DataFrame]:
    """Spots, and the shares of cell types in them."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, np.pi / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pos = unit * np.asarray(cells.obsm["spatial"], dtype=np.float64)
    place = np.floor((pos @ turn + random.uniform(0, side, 2)) / side)
    place, spot = np.unique(place, axis=0, return_inverse=True)
    gather = sp.csr_matrix((np.ones(len(spot)), (spot.ravel(), np.arange(len(spot)))))
    spots = AnnData(sp.csr_matrix(gather @ cells.X, dtype=np.float32), var=cells.var[[]])
    spots.obsm["spatial"] = (place + 0.5) @ turn.T * side
    types = pd.get_dummies(cells.obs[TYPE].astype(str))
    truth = gather @ types.to_numpy(dtype=float)
    share = truth / truth.sum(axis=1, keepdims=True)
    return spots, pd.DataFrame(share, index=spots.obs_names, columns=types.columns)


def elsewhere(spots: AnnData, seed: int) -> AnnData:
    """As a platform would count them that sees genes otherwise, and fewer of all."""
    random = np.random.default_rng(seed)
    factor = random.lognormal(0, 0.5, spots.n_vars)
    spots = spots.copy()
    spots.X = sp.csr_matrix(random.poisson(0.3 * factor * spots.X.toarray()).astype(np.float32))
    return spots


def stofm(spots: AnnData, reference: AnnData, seed: int) -> pd.DataFrame:
    tl.deconvolve(spots, reference, TYPE, seed=seed)
    return spots.obsm["stofm_proportions"]


def stofm_without_positions(spots: AnnData, reference: AnnData, seed: int) -> pd.DataFrame:
    apart = reference.copy()
    del apart.obsm["spatial"]
    return stofm(spots, apart, seed)


def least_squares(spots: AnnData, reference: AnnData, seed: int) -> pd.DataFrame:
    label = reference.obs[TYPE].astype(str).to_numpy()
    types = np.unique(label)
    x = reference.X.toarray().astype(float)
    mean = np.stack([x[label == name].mean(axis=0) for name in types])
    found = np.stack([nnls(mean.T, y)[0] for y in spots.X.toarray().astype(float)])
    total = found.sum(axis=1, keepdims=True)
    share = np.where(total > 0, found / np.where(total > 0, total, 1), 1 / len(types))
    return pd.DataFrame(share, index=spots.obs_names, columns=types)


def flash(spots: AnnData, reference: AnnData, seed: int) -> pd.DataFrame:
    import flashdeconv

    flashdeconv.tl.deconvolve(spots, reference, TYPE, random_state=seed)
    found = spots.obsm["flashdeconv"]
    return pd.DataFrame(np.asarray(found), index=spots.obs_names, columns=list(found.columns))


METHODS = {
    "tl.deconvolve": stofm,
    "tl.deconvolve, reference without positions": stofm_without_positions,
    "NNLS on mean counts": least_squares,
    "flashdeconv": flash,
}


def score(found: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Over all types of either side; correlation over all entries, and the mean of types'."""
    types = sorted(set(found) | set(truth))
    p, q = (part.reindex(columns=types, fill_value=0.0).to_numpy() for part in (found, truth))
    of_type = [
        np.corrcoef(p[:, k], q[:, k])[0, 1] if p[:, k].std() > 0 else 0.0
        for k in range(len(types))
        if q[:, k].std() > 0
    ]
    return {
        "rmse": float(np.sqrt(((p - q) ** 2).mean())),
        "correlation": float(np.corrcoef(p.ravel(), q.ravel())[0, 1]),
        "correlation_of_type": float(np.mean(of_type)),
        "jensen_shannon": float((jensenshannon(p, q, base=2, axis=1) ** 2).mean()),
    }


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
    there = importlib.util.find_spec("flashdeconv") is not None
    record = environment()
    record["versions"]["flashdeconv"] = metadata.version("flashdeconv") if there else "not there"
    runs = [
        (pair, side, condition, seed)
        for seed in range(options.seeds)
        for condition in CONDITIONS
        for pair in PAIRS
        for side in SIDES
    ]
    for (file, source, target, unit), side, condition, seed in runs:
        what = {"file": file, "target": target, "side_um": side, "condition": condition}
        what["seed"] = seed
        done = {row["method"] for row in rows if what.items() <= row.items()}
        adata = read_h5ad(options.data / f"{file}.h5ad")
        reference = adata[adata.obs[SLICE] == source].copy()
        spots, truth = squares(adata[adata.obs[SLICE] == target], unit, side, seed)
        spots = elsewhere(spots, seed) if condition == CONDITIONS[1] else spots
        for method, run in METHODS.items():
            if method in done or (run is flash and not there):
                continue
            start = time.perf_counter()
            found = run(spots.copy(), reference.copy(), seed)
            seconds = round(time.perf_counter() - start, 1)
            scores = {name: round(value, 4) for name, value in score(found, truth).items()}
            rows.append({"method": method, **what, "spots": spots.n_obs, **scores})
            rows[-1]["seconds"] = seconds
            print(rows[-1], flush=True)
            write({"environment": record, "summary": summary(rows), "rows": rows}, options.output)
    print(pd.DataFrame(summary(rows)).to_string())


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of the mean over targets."""
    table = pd.DataFrame(rows)
    values = ["rmse", "correlation", "correlation_of_type", "jensen_shannon"]
    keys = ["condition", "file", "side_um", "method"]
    seeds = table.groupby([*keys, "seed"])[values].mean().groupby(keys)
    mean, spread = seeds.mean().round(4), seeds.std(ddof=0).round(4).add_suffix("_std")
    return pd.concat([mean, spread], axis=1).reset_index().to_dict("records")


if __name__ == "__main__":
    main()
