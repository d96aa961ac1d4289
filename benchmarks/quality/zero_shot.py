"""A pre-trained model on slices that it has never seen: linear probes of its frozen vectors.

``python -m benchmarks.quality.zero_shot --data DIR --model NAME [-o FILE]``
takes a model that was trained without them (:mod:`benchmarks.quality.mini`), and probes regions and
cell types of DLPFC 151674, osmFISH, STARmap and a slice of another animal's MERFISH hypothalamus:
trained on two thirds of blocks of 200 cells, tested on the rest. Beside it: the same network
untrained (``--seeds`` of them), and PCA and neighbour-averaged PCA, which are fitted to the very
slice that is tested. All rows have the same probe, whose strength of regularisation is chosen
within the training cells.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from benchmarks.quality.cell_types import SLICE, plain, probe
from stofm_geo import SToFM
from stofm_geo.benchmark.datasets import read_without_duplicates
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.benchmark.stofm_models import untrained

TASKS = (
    ("dlpfc_151674", "region"),
    ("osmfish_sscortex", "region"),
    ("starmap_visp_1020", "region"),
    ("osmfish_sscortex", "cell_type"),
    ("starmap_visp_1020", "cell_type"),
    ("merfish_hypothalamus_moffitt", "cell_type"),
)


SLICES = {"merfish_hypothalamus_moffitt": "animal7_bregma-0.09"}


def slices(data: Path) -> Iterator[tuple[str, AnnData]]:
    """What is probed, without cells that are copies or have no label."""
    for name in sorted({name for name, _ in TASKS}):
        adata = read_without_duplicates(data / f"{name}.h5ad")
        if name in SLICES:
            adata = adata[adata.obs[SLICE] == SLICES[name]].copy()
            del adata.obs["animal_id"]  # there is one
        yield name, adata


def vectors(model: SToFM, adata: AnnData) -> np.ndarray:
    """Embeddings of all slices of an AnnData."""
    model.embed(adata, slice_key=SLICE, key_added="z")
    return adata.obsm.pop("z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of .h5ad files.")
    parser.add_argument("--model", required=True, help="Of SToFM.from_pretrained.")
    parser.add_argument("--seeds", type=int, default=3, help="Untrained networks.")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge.*")
    model = SToFM.from_pretrained(args.model)
    width = model.encoder.out_channels
    rest = [untrained(model, seed) for seed in range(args.seeds)]
    scores: dict[str, dict[str, list[list[float]]]] = {}
    for name, adata in slices(args.data):
        rows = {row: [z] for row, z in plain(adata).items()}
        rows["untrained"] = [vectors(other, adata) for other in rest]
        rows["pre-trained"] = [vectors(model, adata)]
        rows["pre-trained, columns of the cell"] = [rows["pre-trained"][0][:, :width]]
        for file, label in TASKS:
            if file != name:
                continue
            known = adata.obs[label].notna().to_numpy()
            part = adata[known]
            scores[f"{name}, {label}"] = found = {
                row: [probe(z[known], part, label) for z in each] for row, each in rows.items()
            }
            print(
                f"| {name}, {label} | "
                + " | ".join(
                    f"{row} {np.mean(s):.3f} ± {np.mean(s, axis=1).std():.3f}"
                    for row, s in found.items()
                ),
                flush=True,
            )
    result: dict[str, Any] = {
        **environment(),
        "training": model.training_record,
        "macro_f1": scores,
    }
    if args.output is not None:
        write_result(result, args.output)


if __name__ == "__main__":
    main()
