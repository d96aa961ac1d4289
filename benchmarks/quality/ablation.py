"""What the parts of the network are worth on held-out molecules, cell types and regions.

``python -m benchmarks.quality.ablation --data DIR [--tasks A,B] [--datasets A,B] [--seeds 1]
-o FILE`` fits the library's model with one setting or part changed, on the problems of the suite.
``validation`` is the loss on the tenth of the molecules that a fit holds out itself, relative to
that of its linear start: settings are chosen by it. ``error`` and ``excess`` (molecules that no fit
has seen) and ``macro_f1`` (labels, by a probe, mean over splits) are those of the suite. Finished
rows are kept: run it again to go on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stofm_geo.benchmark import DATASETS, TASKS
from stofm_geo.benchmark.layers import LAYERS, SE2, Stack
from stofm_geo.benchmark.molecule_models import LayerNetwork, fit_model, fit_network
from stofm_geo.benchmark.problems import Problem, Split
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.benchmark.stofm_models import classify
from stofm_geo.networks import SToFMConfig, make_network

STEPS = {"molecules": 600, "cell_types": 200, "regions": 200}
# What is varied for labels: parts of the paper.
PARTS = (
    "as it is",
    "1 macro node",
    "64 macro nodes",
    "no masked cells",
    "1 layer",
    "no attention (MLP)",
    "no distances (TransformerConv)",
    "no pair state (SE2TransformerConv)",
    "vectors",
)
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
    parser.add_argument("--tasks", default="molecules")
    parser.add_argument("--datasets", default="osmfish,starmap,merfish")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    keys = ("task", "dataset", "seed", "variant")
    done = {tuple(row[key] for key in keys) for row in rows}
    for seed in range(args.seeds):
        for dataset, task in product(args.datasets.split(","), args.tasks.split(",")):
            if dataset not in TASKS[task].datasets:
                continue
            splits = list(TASKS[task].splits(DATASETS[dataset].read(args.data), dataset))
            for variant in variants_of(task):
                key = (task, dataset, seed, variant)
                if key in done:
                    continue
                found = [measure(split, task, seed, variant) for split in splits]
                means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
                rows.append(dict(zip(keys, key, strict=True)) | means)
                write_result({**environment(), "rows": rows}, args.output)
                print(*key, *(f"{name} {value:.4f}" for name, value in means.items()), flush=True)
    for task in args.tasks.split(","):
        names = ("validation", "error", "excess") if task == "molecules" else ("macro_f1",)
        for variant in variants_of(task):
            found = [row for row in rows if (row["task"], row["variant"]) == (task, variant)]
            values = (f"{np.mean([row[name] for row in found]):.4f}" for name in names)
            print(f"| {task} | {variant} | {' | '.join(values)} |")


def variants_of(task: str) -> tuple[str, ...]:
    """Return the variants that are measured on a task."""
    return (*SETTINGS, *BODIES) if task == "molecules" else PARTS


def measure(split: Split, task: str, seed: int, variant: str) -> dict[str, float]:
    """Fit a variant to a split, and return its scores and how it was trained."""
    problem, score = split.make()
    assert isinstance(problem, Problem)
    config = SToFMConfig(objectives="molecules", **SETTINGS.get(variant, {}))
    body = BODIES.get(variant)
    build = (
        make_network
        if body is None
        else lambda config, encoder: LayerNetwork(
            body, config.hidden_channels, config, encoder, macro=True
        )
    )
    if task == "molecules":
        predictions, record = fit_network(problem, seed, build, STEPS[task], config)
    else:
        model = fit_model(problem.train, seed, build, STEPS[task], config)
        predictions, record = classify(model, problem, seed), dict(model.training_record)
    return {
        "validation": record["molecule_loss"] / record["molecule_loss_of_averages"],
        "best_step": record["best_step"],
        **score(predictions),
    }


if __name__ == "__main__":
    main()
