"""What the default fit reaches, and in what time, beside a longer one.

``python -m benchmarks.quality.early_stop --data DIR -o benchmarks/results/early_stop.json``: one
Visium slice, one of STARmap and one of MERFISH, three seeds. The niche loss is that of masks drawn
for this script alone, on all sub-slices; domains are compared with the known regions. Seconds are
of the processor, user and system.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData, read_h5ad
from sklearn.metrics import adjusted_rand_score

from stofm_geo import SToFM, tl
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.data.subslices import collate_subslices
from stofm_geo.models.prepare import PreparedTissue
from stofm_geo.training.objectives import PretrainingObjective

# Slice -> labels, which only regions have.
SLICES = {
    "dlpfc_151673": "region",
    "starmap_visp_1020": "region",
    "merfish_hypothalamus_moffitt": None,
}
_MASKS = 12345


def read(file: Path) -> AnnData:
    """Return the first slice of a file."""
    adata = read_h5ad(file)
    if file.stem.startswith("merfish"):
        names = adata.obs["slice_id"].astype(str)
        adata = adata[(names == names.iloc[0]).to_numpy()].copy()
    return adata


def niche_losses(model: SToFM, tissue: PreparedTissue) -> tuple[float, float]:
    """Return the loss on held-out masks, and that of the averages."""
    objective, network = PretrainingObjective.from_config(model.config), model.state.network
    error = baseline = count = 0.0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(_MASKS)
        for subslices in tissue.subslices(model.state.encoder):
            for subslice in subslices:
                batch = collate_subslices([objective.masking(subslice)])
                loss = objective.niche_loss(network, batch, network(batch)[0])
                error += float(loss.error)
                baseline += float(loss.baseline)
                count += float(loss.count)
    return error / count, baseline / count


def measure(file: Path, label: str | None, seed: int, **steps: int) -> dict[str, Any]:
    adata, model = read(file), SToFM()
    start = time.process_time()
    tissue = model.prepare(adata)
    model.fit(tissue, seed=seed, progress=False, **steps)
    seconds = time.process_time() - start
    loss, averages = niche_losses(model, tissue)
    row: dict[str, Any] = {
        "file": file.stem,
        "cells": adata.n_obs,
        "max_steps": steps.get("max_steps", "default"),
        "seed": seed,
        "steps": model.training_record["steps"],
        "best_step": model.training_record.get("best_step"),
        "fit_cpu_seconds": round(seconds, 1),
        "niche_loss": loss,
        "niche_loss_of_averages": averages,
    }
    if label is not None:
        model.embed(tissue)
        known = adata.obs[label].notna().to_numpy()
        tl.domains(adata, adata.obs[label][known].nunique(), seed=seed)
        found = adata.obs["stofm_domain"][known]
        row["ari"] = adjusted_rand_score(adata.obs[label][known].astype(str), found)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--longer", type=int, default=200, help="steps of the longer fit; 0: none")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for steps in [{}, {"max_steps": options.longer}] if options.longer else [{}]:
        for name, label in SLICES.items():
            for seed in range(options.seeds):
                rows.append(measure(options.data / f"{name}.h5ad", label, seed, **steps))
                print(rows[-1], flush=True)
                write_result({"environment": environment(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
