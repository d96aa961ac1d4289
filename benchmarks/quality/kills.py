"""Killed at random moments and started again, a build and a training run end as undisturbed ones.

``python -m benchmarks.quality.kills --data DIR --work DIR -o benchmarks/results/kills.json``: a
corpus of the three smallest files of ``--data`` is built, and a small network trained on it. Then
both again, each killed (SIGKILL) ``--kills`` times: from the start of the process, libraries still
being read, to as long as the undisturbed one took. Compared are all bytes of the corpus, and those
of the last weights. Where a process ends before its moment, the run is over, and starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import environment, write
from stofm_geo._hash import weights_hash
from stofm_geo.data.corpus import read_index, verify

FILES = 3


def started(words: list[str], seconds: float | None = None) -> float | None:
    """Seconds until a command is done; ``None`` where it was killed after ``seconds``."""
    command = [sys.executable, "-m", "stofm_geo", *words]
    start = time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = run.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        return None
    if run.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {run.returncode}: {said[-2000:]}")
    return time.perf_counter() - start


def corpus_state(folder: Path) -> str:
    """SHA-256 of what a build leaves, temporary files included, if its checksums are right."""
    if wrong := verify(folder):
        return f"damaged: {wrong}"
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def weights_state(folder: Path) -> str:
    """A hash of the last weights."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return weights_hash(checkpoint["state_dict"])


def compared(
    words: list[str], option: str, work: Path, state: Any, kills: int, draw: random.Random
) -> dict[str, Any]:
    """An undisturbed run, and runs that are killed, until there were so many kills."""
    name = words[0]
    folders = work / name, work / f"{name}-killed"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = started([*words, option, str(folders[0])])
    expected, moments, runs, same = state(folders[0]), [], 0, []
    while len(moments) < kills or runs == 0:
        shutil.rmtree(folders[1], ignore_errors=True)
        done = None
        while done is None:
            moment = draw.uniform(0, seconds) if len(moments) < kills else None
            done = started([*words, option, str(folders[1])], moment)
            if done is None:
                moments.append(round(moment, 2))
                print(f"{name}: killed after {moment:.2f} s", flush=True)
        runs += 1
        same.append(state(folders[1]) == expected)
        print(f"{name}: run {runs} {'is the same' if same[-1] else 'DIFFERS'}", flush=True)
    return {
        "undisturbed_seconds": round(seconds, 1),
        "killed_after_seconds": moments,
        "runs": runs,
        "state": expected,
        "same": all(same),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--organism", default="auto")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    files = sorted(options.data.glob("*.h5ad"), key=lambda file: (file.stat().st_size, file.name))
    named = [str(file) for file in files[:FILES]]
    settings = ["--slice-key", "slice_id", "--organism", options.organism]
    draw, given = random.Random(options.seed), (options.kills,)
    words = ["corpus", "build", *named, *settings]
    build = compared(words, "-o", options.work, corpus_state, *given, draw)
    corpus = options.work / "corpus"
    sizes = {"hidden_channels": 16, "heads": 2, "num_layers": 1, "out_channels": 24}
    words = [
        "pretrain",
        f"--data.folder={corpus}",
        "--data.node_budget=3000",
        "--checkpoint_every=5",
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={options.steps}",
        "--trainer.val_check_interval=20",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.enable_progress_bar=false",
        *(f"--model.settings.{name}={value}" for name, value in sizes.items()),
    ]
    train = compared(words, "--folder", options.work, weights_state, *given, draw)
    found = {"environment": environment(), "seed": options.seed}
    found |= {"slices": len(read_index(corpus)["slices"]), "build": build, "pretrain": train}
    if options.output is not None:
        write(found, options.output)
    if not (build["same"] and train["same"]):
        raise SystemExit("a run that was killed ended otherwise than the undisturbed one")


if __name__ == "__main__":
    main()
