"""Damaged inputs, each read in a process of its own, and what came of it.

``python -m benchmarks.quality.fuzz --trials 5000 -o benchmarks/results/fuzz.json``: bytes of a
model, an annotator, a vocabulary and a slice are flipped, files cut short, and values of their JSON
replaced. *clear*: one of the errors that the commands tell in a line; *harmless*: it was read, and
embeds as before; *silent*: it was read, and embeds otherwise; *traceback*, *hang* (10 s), *memory*
(2 GB more, or a crash): what there must be none of.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import environment, write
from stofm_geo import SToFM
from stofm_geo.data import read_slice_file
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import Vocabulary
from stofm_geo.tasks import Annotator, fine_tune

CLASSES = ("clear", "harmless", "silent", "traceback", "hang", "memory")
_SECONDS, _BYTES = 10, 2 * 2**30
_VALUES = (None, -1, 0, 1e9, 10**9, 1e308, float("nan"), "", "text", [], {}, [1], True)
_CLEAR = (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)  # of the commands


def originals(folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Write one of each, and how it is read: to numbers that must not change."""
    tissue = toy_tissue(150, 30, 1, seed=0)
    sizes = dict(hidden_channels=16, heads=2, num_layers=1, n_components=6, out_channels=24)
    model = SToFM(**sizes).fit(tissue, max_steps=2, progress=False)
    model.save_pretrained(folder / "model")
    fine_tune(model, tissue, "region", progress=False).save(folder / "annotator")
    Vocabulary({"<pad>": 0, "<cls>": 1, "a": 2}, {"a": 1.5}).to_json(folder / "vocabulary.json")
    tissue.write_h5ad(folder / "slice.h5ad")

    def embedded(path: Path) -> np.ndarray:
        adata = tissue.copy()
        SToFM.from_pretrained(path).embed(adata)
        return adata.obsm["X_stofm"]

    def of_slice(path: Path) -> np.ndarray:
        adata = read_slice_file(path)
        model.embed(adata)
        return adata.obsm["X_stofm"]

    return {
        "model": embedded,
        "annotator": lambda path: Annotator.load(path).probabilities(tissue),
        "vocabulary.json": lambda path: repr(Vocabulary.from_json(path)),
        "slice.h5ad": of_slice,
    }


def damage(path: Path, draw: random.Random) -> str:
    """Change one file; what was done."""
    files = [file for file in path.rglob("*") if file.name != "README.md"]
    file = draw.choice(sorted(files)) if path.is_dir() else path
    content = bytearray(file.read_bytes())
    kinds = ["flip", "cut"] + ["value"] * 2 * (file.suffix == ".json")
    kind = draw.choice(kinds)
    if kind == "flip":
        for _ in range(draw.choice([1, 4, 32])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[draw.randrange(len(content)) :]
    else:
        values = json.loads(content)
        part = values
        while True:
            key = draw.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if isinstance(part[key], dict | list) and part[key] and draw.random() < 0.8:
                part = part[key]
                continue
            part[key] = draw.choice(_VALUES)
            kind = f"value of {key}"
            break
        content = json.dumps(values).encode()
    file.write_bytes(content)
    return f"{file.name}: {kind}"


def trial(read: Callable[[Path], Any], path: Path, expected: Any) -> tuple[str, str]:
    """The class of what comes of reading, and the error."""
    taken, given = os.pipe()
    if (child := os.fork()) == 0:
        os.close(taken)
        signal.alarm(_SECONDS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, used + _BYTES))
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        try:
            same = np.array_equal(read(path), expected)
            told = ("harmless" if same else "silent"), ""
        except MemoryError as error:
            told = "memory", repr(error)
        except _CLEAR as error:
            big = "allocate memory" in str(error)
            told = ("memory" if big else "clear"), f"{type(error).__name__}: {error}"
        except BaseException as error:
            told = "traceback", repr(error)
        os.write(given, json.dumps(told).encode()[:4096])
        os._exit(0)
    os.close(given)
    with os.fdopen(taken, "rb") as stream:
        said = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        return "hang", ""
    if status:
        return "memory", f"exit {status}"
    try:
        return tuple(json.loads(said))
    except ValueError:
        return "clear", said.decode(errors="replace")


def run(trials: int, seed: int) -> dict[str, Any]:
    """Counts by input and class, and all trials that must not be."""
    draw, counts, bad = random.Random(seed), {}, []
    with tempfile.TemporaryDirectory() as folder:
        readers = originals(Path(folder))
        expected = {name: read(Path(folder) / name) for name, read in readers.items()}
        for number in range(trials):
            name = draw.choice(sorted(readers))
            source, path = Path(folder) / name, Path(folder) / f"damaged-{name}"
            (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
            done = damage(path, draw)
            found, error = trial(readers[name], path, expected[name])
            counts.setdefault(name, Counter())[found] += 1
            if found not in ("clear", "harmless"):
                bad.append([number, name, done, found, error[:300]])
            (shutil.rmtree if path.is_dir() else os.remove)(path)
    table = {name: {kind: found[kind] for kind in CLASSES} for name, found in counts.items()}
    return {"trials": trials, "seed": seed, "counts": table, "bad": bad}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    found = run(options.trials, options.seed)
    for name, row in found["counts"].items():
        print(f"{name:<18}" + "  ".join(f"{kind} {count}" for kind, count in row.items()))
    for one in found["bad"]:
        print(*one)
    if options.output is not None:
        write({"environment": environment(), **found}, options.output)


if __name__ == "__main__":
    main()
