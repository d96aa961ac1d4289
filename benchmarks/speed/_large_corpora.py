"""A corpus of thousands of slices is made of one, opened, loaded and trained on."""

from __future__ import annotations

import json
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.speed._corpora import CONFIG, data_of, peak_gb, trainer_of
from stofm_geo._hash import with_hash
from stofm_geo._logging import suppress_logger
from stofm_geo.data.corpus.index import HASH, INDEX, SLICES, read_index
from stofm_geo.training.corpus_pretrain import CorpusPretraining


def repeat(folder: Path, target: Path, copies: int) -> None:
    """Write a corpus that has the only slice of another ``copies`` times, as hard links."""
    index = read_index(folder)
    (entry,) = index["slices"]
    source = folder / SLICES / entry["folder"]
    files = [file.relative_to(source) for file in source.rglob("*") if file.is_file()]
    names = [f"slice-{number:05}" for number in range(copies)]
    for name in names:
        for file in files:
            link = target / SLICES / name / file
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(source / file, link)
    slices = [{**entry, "folder": name} for name in names]
    index = {name: value for name, value in index.items() if name != HASH} | {"slices": slices}
    (target / INDEX).write_text(json.dumps(with_hash(index, HASH), indent=1))


def opened(folder: Path, node_budget: int) -> dict[str, Any]:
    """Open a corpus, draw the batches of an epoch, and resume in its middle."""
    before, start = peak_gb(), time.perf_counter()
    data = data_of(folder, node_budget)
    row: dict[str, Any] = {"open_s": time.perf_counter() - start, "slices": len(data.train.slices)}
    row |= {"subslices": len(data.train), "index_mb": (folder / INDEX).stat().st_size / 1e6}
    loader = data.train_dataloader()
    start = time.perf_counter()
    loader.batch_sampler.all_batches()
    row["batches_s"] = time.perf_counter() - start
    state = loader.state_dict() | {"position": len(loader.batch_sampler) // 2}
    loader = data.train_dataloader()
    start = time.perf_counter()
    loader.load_state_dict(state)
    next(iter(loader))
    return {**row, "resume_s": time.perf_counter() - start, "added_gb": peak_gb() - before}


def loaded(folder: Path, node_budget: int, batches: int) -> dict[str, Any]:
    """Load the first batches of an epoch, as training does, after as many others."""
    loader = data_of(folder, node_budget).train_dataloader()
    both = iter(loader)
    for _ in islice(both, batches):
        pass
    start = time.perf_counter()
    cells = [int(batch.core_mask.sum()) for batch in islice(both, batches)]
    seconds = time.perf_counter() - start
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    row = {"cells_per_second": sum(cells) / seconds, "ms_a_batch": 1e3 * seconds / len(cells)}
    return {**row, "open_files": files, "peak_gb": peak_gb()}


def started(folder: Path, node_budget: int, file: Path) -> dict[str, Any]:
    """Train one step, and write and read a checkpoint."""
    row: dict[str, Any] = {}
    with suppress_logger("lightning.pytorch"):
        start = time.perf_counter()
        trainer = trainer_of(1)
        trainer.fit(CorpusPretraining(CONFIG), datamodule=data_of(folder, node_budget))
        row["first_step_s"] = time.perf_counter() - start
        start = time.perf_counter()
        trainer.save_checkpoint(file)
        row |= {"save_s": time.perf_counter() - start, "checkpoint_mb": file.stat().st_size / 1e6}
        start = time.perf_counter()
        trainer = trainer_of(1)
        trainer.ckpt_path = file  # as ``stofm-geo pretrain`` does
        trainer.fit(CorpusPretraining(CONFIG), datamodule=data_of(folder, node_budget))
        row["resume_s"] = time.perf_counter() - start
    return {**row, "peak_gb": peak_gb()}
