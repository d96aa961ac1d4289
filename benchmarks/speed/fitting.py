"""``SToFM.fit``, and which part of it takes how much of the time.

A toy slice, and slice 151673 of ``--data`` (Visium), each in a process of its own.

- ``preparation``: checks, neighbour graph, macro nodes, principal components.
- ``linear start``: the ridge regression that training begins with.
- ``loader``: a sub-slice is cut, and its molecules are split.
- ``steps``: forward, backward and optimizer.
- ``checks``: the held-out loss.
- ``rest``: Lightning, logging, copies of the best weights.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._process import fresh
from benchmarks.speed._section import Headline, Section, Table, brief

SLICE = "dlpfc_151673.h5ad"
PARTS = ("preparation", "linear start", "loader", "steps", "checks", "rest")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cells: int = 10_000
    genes: int = 300
    max_steps: int | None = None  # the default of ``fit``


QUICK = Sizes(200, 30, 2)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Seconds of each part."""
    sizes = QUICK if given.quick else Sizes()
    files = {"toy": None}
    without = {}
    if given.data is None:
        without["a Visium slice"] = "no --data"
    elif not given.quick:
        files["Visium"] = given.data / SLICE
    rows = [watch(f"fitting: {name}", fresh, fitted, name, files[name], sizes) for name in files]
    return {"settings": asdict(sizes), "without": without, "rows": rows}


def fitted(name: str, file: Path | None, sizes: Sizes) -> dict[str, Any]:
    """Fit a model, in this process."""
    import torch

    from stofm_geo import SToFM, datasets, read
    from stofm_geo.training import pretraining_loader, slice_pretrain

    SToFM().fit(datasets.toy_tissue(200, 30), max_steps=2, progress=False)  # compiles
    adata = datasets.toy_tissue(sizes.cells, sizes.genes) if file is None else read(file)
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable) -> Callable:
        def call(*args: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                spent[part] += time.perf_counter() - start

        return call

    places = (
        ("training", slice_pretrain, "pretrain_slices"),
        ("linear start", slice_pretrain, "fit_linear"),
        ("loader", pretraining_loader._MaskedSubSlices, "__getitem__"),
        ("loader", pretraining_loader, "collate_subslices"),
        ("steps", slice_pretrain.SlicePretraining, "optimizer_step"),
        ("checks", slice_pretrain.SlicePretraining, "validation_step"),
    )
    patches = [
        mock.patch.object(owner, function, timed(part, getattr(owner, function)))
        for part, owner, function in places
    ]
    for patch in patches:
        patch.start()
    try:
        start, cpu = time.perf_counter(), time.process_time()
        model = SToFM().fit(adata, max_steps=sizes.max_steps, seed=0, progress=False)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        for patch in patches:
            patch.stop()
    inner = sum(spent[part] for part in PARTS[1:-1])
    spent |= {"preparation": seconds - spent["training"], "rest": spent["training"] - inner}
    record = model.training_record
    row: dict[str, Any] = {"slice": name, "cells": adata.n_obs, "genes": adata.n_vars}
    row |= {"seconds": seconds, "cpu_seconds": cpu, "threads": torch.get_num_threads()}
    return {**row, "steps": record["steps"], "parts": {part: spent[part] for part in PARTS}}


def not_steps(row: dict[str, Any]) -> float:
    """The share of loader and rest in the training, without checks."""
    parts = row["parts"]
    return 1 - parts["steps"] / (parts["loader"] + parts["steps"] + parts["rest"])


def report(result: dict[str, Any]) -> Section:
    """Seconds of each part, and the share of what is not the network."""
    rows = result["rows"]
    lines = []
    for row in rows:
        numbers = (brief(row[key]) for key in ("cells", "genes", "steps", "seconds", "cpu_seconds"))
        parts = (brief(row["parts"][part]) for part in PARTS)
        lines.append((row["slice"], *numbers, *parts, f"{not_steps(row):.0%}"))
    columns = ("slice", "cells", "genes", "steps", "s", "CPU, s", *PARTS)
    table = Table("Seconds", (*columns, "not steps, of loader, steps and rest"), lines)
    headlines = [
        Headline(
            f"fit, {row['slice']} slice, {brief(row['cells'])} cells", f"{brief(row['seconds'])} s"
        )
        for row in rows
    ]
    return Section([table], [], headlines)
