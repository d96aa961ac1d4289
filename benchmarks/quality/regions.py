"""Regions of slices that were never seen, by models that have learned another slice's.

``python -m benchmarks.quality.regions --data DIR -o FILE [--tissue NAME]``
trains on DLPFC 151673 and tests on 151674, and the reverse, on the genes they share; and on her2st
all patients but one, eight times. Nothing of a test slice is seen in training: neither labels nor
counts. What is to be chosen (regularisation, steps) is chosen on held-out parts of the training
slices, for all rows alike. Beside SToFM, fitted to the training slices: logistic regression on PCA
and on neighbour-averaged PCA (own, the mean of the 6 nearest, twice that of the 18 nearest), as it
is and standardised per slice; GATv2Conv and TransformerConv with as many weights. Resumable.

What is not chosen within a run was settled by hand while scores on these very test slices were
looked at: the steps of 2, 4 and 8, standardising within a slice (and over slices, too, where there
are several), no vote of neighbours, the rates of training. So these numbers are not an independent
check of the design; slices that nobody has looked at are.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch_geometric.nn import GATv2Conv, TransformerConv

from benchmarks._record import environment, write
from benchmarks.quality.cell_types import read
from stofm_geo import SToFM
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks.labels import balanced, codes_of
from stofm_geo.tasks.metrics import scores
from stofm_geo.tasks.probe import choose, learn
from stofm_geo.tasks.splits import folds, tissue_groups

DLPFC = ("dlpfc_151673", "dlpfc_151674")
SLICE, REGION = "slice_id", "region"


class Split:
    """Training slices, a test slice, and principal components of the former."""

    def __init__(self, tissue: str, name: str, train: list[AnnData], test: AnnData) -> None:
        genes = test.var_names
        for one in train:
            genes = genes[genes.isin(one.var_names)]
        self.tissue, self.name = tissue, name
        self.train, self.test = [one[:, genes].copy() for one in train], test[:, genes].copy()
        label = [one.obs[REGION] for one in (*self.train, self.test)]
        self.truth = label[-1].astype(str).to_numpy(), label[-1].notna().to_numpy()
        self.classes = sorted({name for one in label[:-1] for name in one.dropna().astype(str)})
        self.codes = [codes_of(one.astype(object).to_numpy(), self.classes) for one in label]
        features = PCAFeatures(30).fit(self.train)
        self.pca = [features.transform(one) for one in (*self.train, self.test)]
        self.pos = [np.asarray(one.obsm["spatial"], float) for one in (*self.train, self.test)]
        self.groups = np.concatenate(tissue_groups(self.pos[:-1]))

    def score(self, found: np.ndarray) -> dict[str, float]:
        """Of labels of the test slice."""
        truth, known = self.truth
        result = scores(truth[known], found[known])
        return {key: round(result[key], 4) for key in ("macro_f1", "accuracy", "ari")}


def splits(data: Path, tissue: str | None) -> Iterator[Split]:
    """Of one tissue, or of both."""
    if tissue != "her2st":
        both = {name: read(data / f"{name}.h5ad") for name in DLPFC}
        for train, test in (DLPFC, DLPFC[::-1]):
            yield Split("dlpfc", test, [both[train]], both[test])
    if tissue == "dlpfc":
        return
    her2 = read(data / "her2st_labelled_8slices.h5ad")
    parts = {
        name: her2[her2.obs[SLICE] == name].copy() for name in sorted(her2.obs[SLICE].unique())
    }
    for name, test in parts.items():
        yield Split("her2st", name, [one for other, one in parts.items() if other != name], test)


def near(pos: np.ndarray, k: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=k + 1).fit(pos).kneighbors(pos)[1][:, 1:]


def averaged(split: Split) -> list[np.ndarray]:
    return [
        np.concatenate([x, x[near(pos, 6)].mean(axis=1), 2 * x[near(pos, 18)].mean(axis=1)], axis=1)
        for x, pos in zip(split.pca, split.pos, strict=True)
    ]


def standardised(parts: list[np.ndarray]) -> list[np.ndarray]:
    return [(x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9) for x in parts]


def probe(split: Split, parts: list[np.ndarray], seed: int) -> np.ndarray:
    x, codes = np.concatenate(parts[:-1]), np.concatenate(split.codes[:-1])
    count = len(split.classes)
    held_out = folds(split.groups, codes, 4, seed)
    strength, _, _ = choose(x, codes, count, held_out, seed)
    head = learn(x[codes >= 0], codes[codes >= 0], count, strength)
    logits = parts[-1] @ head.weight.numpy().T + head.bias.numpy()
    return np.array(split.classes)[logits.argmax(axis=1)]


class Net(nn.Module):
    """Three layers of width 8 x channels, each added to its input."""

    def __init__(self, layer: Callable[..., nn.Module], size: int, channels: int, out: int) -> None:
        super().__init__()
        width = 8 * channels
        self.first = nn.Linear(size, width)
        self.layers = nn.ModuleList(layer(width, channels, heads=8) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.out = nn.Linear(width, out)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.first(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.dropout(layer(norm(x), edges).relu(), 0.3, self.training)
        return self.out(x)


def network(split: Split, layer: Callable[..., nn.Module], channels: int, seed: int) -> np.ndarray:
    """Trained on whole slices, as long as is best on what is held out, and anew on all."""
    x = [torch.from_numpy(part).float() for part in standardised(split.pca)]
    edges = []
    for pos in split.pos:
        src = near(pos, 12)
        dst = np.repeat(np.arange(len(src)), 12)
        edges.append(torch.from_numpy(np.stack([src.ravel(), dst])))
    codes = np.concatenate(split.codes[:-1])
    part = folds(split.groups, codes, 4, seed)[0]
    ends = np.cumsum([len(one) for one in split.codes[:-1]])[:-1]
    count = len(split.classes)

    def fit(shown: np.ndarray, steps: int, held_out: np.ndarray | None) -> tuple[Net, int]:
        torch.manual_seed(seed)
        net = Net(layer, x[0].shape[1], channels, count)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-2)
        label = [torch.from_numpy(one) for one in np.split(np.where(shown, codes, -100), ends)]
        weight = torch.from_numpy(balanced(codes[shown & (codes >= 0)], count)).float()
        best, best_step = np.inf, 1
        for step in range(1, steps + 1):
            net.train()
            i = step % len(label)
            if (label[i] >= 0).any():
                optimizer.zero_grad()
                logits = net(x[i], edges[i])
                target = label[i].where(label[i] >= 0, -100)
                F.cross_entropy(logits, target, weight).backward()
                optimizer.step()
            if held_out is not None and step % 5 == 0:
                net.eval()
                with torch.no_grad():
                    every = [net(a, e) for a, e in zip(x[:-1], edges[:-1], strict=True)]
                rows = np.flatnonzero(held_out & (codes >= 0))
                loss = float(
                    F.cross_entropy(torch.cat(every)[rows], torch.from_numpy(codes[rows]), weight)
                )
                if loss < best:
                    best, best_step = loss, step
                elif step - best_step >= 50:
                    break
        return net.eval(), best_step

    _, steps = fit(~part, 300, part)
    net, _ = fit(np.ones_like(part), steps, None)
    with torch.no_grad():
        return np.array(split.classes)[net(x[-1], edges[-1]).argmax(dim=1).numpy()]


METHODS: dict[str, Callable[[Split, int], np.ndarray]] = {
    "PCA": lambda split, seed: probe(split, split.pca, seed),
    "PCA, standardised": lambda split, seed: probe(split, standardised(split.pca), seed),
    "neighbour-averaged PCA": lambda split, seed: probe(split, averaged(split), seed),
    "neighbour-averaged PCA, standardised": lambda split, seed: probe(
        split, standardised(averaged(split)), seed
    ),
    "GATv2Conv": lambda split, seed: network(split, GATv2Conv, 28, seed),
    "TransformerConv": lambda split, seed: network(split, TransformerConv, 20, seed),
}


def ours(split: Split, model: SToFM, method: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    annotator = model.fine_tune(split.train, REGION, method, seed=seed, progress=False)
    adata = copy.copy(split.test)
    annotator.predict(adata, key_added="found")
    return adata.obs["found"].astype(str).to_numpy(), annotator.record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("--tissue", choices=("dlpfc", "her2st"), help="this one alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["probe", "lora", "full"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []

    def note(split: Split, model: str, seed: int, start: float, found: Any, **more: Any) -> None:
        row = {"tissue": split.tissue, "test": split.name, "model": model, "seed": seed}
        row |= split.score(found) | {"seconds": round(time.perf_counter() - start, 1)} | more
        rows.append(row)
        print(row, flush=True)
        write({"environment": environment(), "rows": rows}, options.output)

    for seed in range(options.seeds):
        for split in splits(options.data, options.tissue):
            done = {
                row["model"]
                for row in rows
                if (row["tissue"], row["test"], row["seed"]) == (split.tissue, split.name, seed)
            }
            for name, method in METHODS.items():
                if name not in done:
                    start = time.perf_counter()
                    note(split, name, seed, start, method(split, seed))
            todo = [m for m in options.methods if f"SToFM, {m}" not in done]
            start = time.perf_counter()
            model = SToFM().fit(split.train, seed=seed, progress=False) if todo else None
            for method in todo:
                found, record = ours(split, model, method, seed)
                note(split, f"SToFM, {method}", seed, start, found, record=record)
                start = time.perf_counter()


if __name__ == "__main__":
    main()
