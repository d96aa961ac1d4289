"""A corpus is built, loaded and trained on, each to be run in a process of its own."""

from __future__ import annotations

import resource
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from stofm_geo._logging import suppress_logger
from stofm_geo.benchmark.memory import memory
from stofm_geo.data.corpus import build, find_sources, summary
from stofm_geo.datasets import toy_tissue
from stofm_geo.training.corpus_data import CorpusDataModule
from stofm_geo.training.corpus_pretrain import DEFAULTS, CorpusPretraining
from stofm_geo.training.objectives import PretrainingObjective

WARM_UP = 2  # steps that are not counted
# A toy corpus has no Ensembl ids; training does not depend on it.
CONFIG = replace(DEFAULTS, organism=None)


def peak_gb() -> float:
    """Of this process, or of the largest that it started and that has ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(memory("VmHWM"), children / 1024) / 1024, 2)


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range."""
    low, middle, high = (float(f"{f(values):.4g}") for f in (min, statistics.median, max))
    return {"median": middle, "range": [low, high]}


def toy(cells: int, genes: int, file: Path) -> None:
    """Write a toy slice."""
    toy_tissue(cells, genes).write_h5ad(file)


def built(sources: list[str], organism: str, folder: Path) -> dict[str, Any]:
    """Build a corpus anew, with the settings of ``stofm-geo corpus build``."""
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was disturbed
    found = find_sources(sources, slice="slice_id", organism=organism)
    start, cpu = time.perf_counter(), time.process_time()
    failed = build(found, folder)
    row = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    total = summary(folder)[-1]
    row |= {name: total[name] for name in ("slices", "cells", "genes", "bytes")}
    row["pieces"] = total["subslices"]
    return {**row, "put_aside": len(failed), "peak_gb": peak_gb()}


def data_of(folder: Path, node_budget: int, num_workers: int = 0) -> CorpusDataModule:
    """A corpus as training loads it, nothing held out."""
    masking = PretrainingObjective.from_config(DEFAULTS).masking
    given = {"node_budget": node_budget, "num_workers": num_workers, "transform": masking}
    return CorpusDataModule(folder, held_out=0, **given)


def trainer_of(max_steps: int, **more: Any) -> Trainer:
    """A trainer of some steps, without validation, files and chatter."""
    off = "logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"
    given = {"accelerator": "cpu", "limit_val_batches": 0, **dict.fromkeys(off, False)}
    return Trainer(max_steps=max_steps, **given, **more)


def loaded(folder: Path, node_budget: int, num_workers: int, epochs: int) -> dict[str, Any]:
    """Epochs as training loads them, nothing held out; the first opens the slices."""
    data = data_of(folder, node_budget, num_workers)
    loader, seconds, cpu = data.train_dataloader(), [], []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        start, cpu_start = time.perf_counter(), time.process_time()
        cells = sum(int(batch.core_mask.sum()) for batch in loader)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    subslices = len(data.train)
    row = {"workers": num_workers, "pieces": subslices, "batches": len(loader)}
    row |= {"cells": cells, "cells_per_second": spread([cells / one for one in seconds])}
    row["ms_a_piece"] = spread([1e3 * one / subslices for one in seconds])
    row["cpu_ms_a_piece"] = spread([1e3 * one / subslices for one in cpu])  # of this process alone
    return {**row, "peak_gb": peak_gb()}


class _Clocked(CorpusDataModule):
    """Notes of each batch how long it takes to load, and its core cells."""

    def train_dataloader(self) -> _Clocked:
        """Itself, again for each epoch."""
        self.loader, self.loads = super().train_dataloader(), []
        return self

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            if (batch := next(batches, None)) is None:
                return
            self.loads.append((time.perf_counter() - start, int(batch.core_mask.sum())))
            yield batch


class _Steps(Callback):
    """Notes how long each step takes: forward, backward, optimizer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def trained(folder: Path, node_budget: int, steps: int) -> dict[str, Any]:
    """Steps of the default network, each on a batch that was loaded just before."""
    data, clock = _Clocked(folder, node_budget=node_budget, held_out=0), _Steps()
    trainer = trainer_of(WARM_UP + steps, callbacks=[clock])
    with suppress_logger("lightning.pytorch"):
        trainer.fit(CorpusPretraining(CONFIG), datamodule=data)
    pairs = list(zip(data.loads, clock.seconds, strict=False))[WARM_UP:]
    rows = [(load, cells, step) for (load, cells), step in pairs]
    loading, cells, training = (sum(column) for column in zip(*rows, strict=True))
    return {
        "steps": len(rows),
        "cells": cells,
        "training_cells_per_second": round(cells / training),
        "training_ms_a_step": spread([1e3 * one for _, _, one in rows]),
        "loader_cells_per_second": round(cells / loading),
        "loader_to_training": round(training / loading, 2),
        "of_each_batch": spread([step / load for load, _, step in rows]),
        "peak_gb": peak_gb(),
    }
