"""What the parts of the network are worth on held-out molecules.

``python -m benchmarks.quality.ablation --data DIR [--datasets A,B] [--seeds 1] -o FILE``
fits the library's model with one setting or part changed, on the problems of the suite's task
``molecules``. ``validation`` is the loss on the tenth of the molecules that a fit holds out itself,
relative to that of its linear start: settings are chosen by it. ``error`` and ``excess`` are those
of the suite, on molecules that no fit has seen. Finished rows are kept: run it again to go on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stofm_geo.benchmark import DATASETS, TASKS
from stofm_geo.benchmark.layers import LAYERS, SE2, Stack
from stofm_geo.benchmark.molecule_models import LayerNetwork, fit_network
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.networks import SToFMConfig, make_network

STEPS = 600
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "1 macro node": {"max_macro_nodes": 1},
    "64 macro nodes": {"max_macro_nodes": 64},
    "no masked cells": {"mask_ratio": 0.0},
    "half of the cells masked": {"mask_ratio": 0.5},
    "a tenth of the molecules predicted": {"target_ratio": 0.1},
    "half of the molecules predicted": {"target_ratio": 0.5},
    "1 layer": {"num_layers": 1},
    "6 layers": {"num_layers": 6},
    "64 channels": {"hidden_channels": 64},
    "256 channels": {"hidden_channels": 256},
    "no dropout": {"dropout": 0.0},
    "dropout 0.3": {"dropout": 0.3},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 3e-4": {"learning_rate": 3e-4},
}
BODIES: dict[str, Callable[[int], nn.Module]] = {
    "no attention (MLP)": partial(Stack, LAYERS["MLP"]),
    "no distances (TransformerConv)": partial(Stack, LAYERS["TransformerConv"]),
    "no pair state (SE2TransformerConv)": partial(Stack, LAYERS["SE2TransformerConv"]),
    "vectors": partial(SE2, vectors=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of the suite's files.")
    parser.add_argument("--datasets", default="osmfish,starmap,merfish")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    done = {(row["dataset"], row["seed"], row["variant"]) for row in rows}
    for seed in range(args.seeds):
        for dataset in args.datasets.split(","):
            slices = DATASETS[dataset].read(args.data)
            (split,) = TASKS["molecules"].splits(slices, dataset)
            for variant in (*SETTINGS, *BODIES):
                if (dataset, seed, variant) in done:
                    continue
                problem, score = split.make()
                config = SToFMConfig(objectives="molecules", **SETTINGS.get(variant, {}))
                body = BODIES.get(variant)
                build = (
                    make_network
                    if body is None
                    else lambda config, encoder, body=body: LayerNetwork(
                        body, config.hidden_channels, config, encoder, macro=True
                    )
                )
                predictions, record = fit_network(problem, seed, build, STEPS, config)
                start = record["molecule_loss_of_averages"]
                rows.append(
                    {
                        "dataset": dataset,
                        "seed": seed,
                        "variant": variant,
                        "validation": record["molecule_loss"] / start,
                        "best_step": record["best_step"],
                        "parameters": record["parameters"],
                        **score(predictions),
                    }
                )
                write_result({**environment(), "rows": rows}, args.output)
                print(
                    " ".join(
                        f"{v:.4f}" if isinstance(v, float) else str(v) for v in rows[-1].values()
                    ),
                    flush=True,
                )
    for variant in (*SETTINGS, *BODIES):
        found = [row for row in rows if row["variant"] == variant]
        means = {k: np.mean([row[k] for row in found]) for k in ("validation", "error", "excess")}
        print(f"| {variant} | " + " | ".join(f"{value:.4f}" for value in means.values()) + " |")


if __name__ == "__main__":
    main()
