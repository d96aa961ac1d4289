"""Which size of ``stofm-geo-mini`` is best for the same time of training, and for more of it.

``python -m benchmarks.quality.scaling --config CORPUS.yaml --folder RUNS -o FILE`` pre-trains
networks of several sizes with the settings that :mod:`benchmarks.quality.mini` has written, and
writes their losses on the slices that these hold out. ``weights`` are those without gene
embeddings, and ``cpu_seconds`` those of the last start. Finished runs are kept, and killed ones
resume: run it again to go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

from stofm_geo import SToFM
from stofm_geo.benchmark.records import environment, write_result

# Width, layers, and steps. The first, with a learning rate of almost 0, is the start of all; the
# next three take about the same time; the last two are the first of these with a quarter of the
# steps and four times as many.
RUNS = ((128, 3, 1), (64, 2, 1000), (128, 3, 500), (256, 6, 140), (64, 2, 250), (64, 2, 4000))
CHECKS = 8  # of the loss on held-out slices
NO_RATE = 1e-12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="Settings of the corpus.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.output.read_text())["rows"] if args.output.is_file() else []
    done = {(row["width"], row["layers"], row["steps"]) for row in rows}
    for width, layers, steps in RUNS:
        if (width, layers, steps) in done:
            continue
        folder = args.folder / f"{width}x{layers}-{steps}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        command = [
            *(sys.executable, "-m", "stofm_geo", "pretrain", f"--config={args.config}"),
            f"--folder={folder}",
            *(f"--model.config.hidden_channels={width}", f"--model.config.num_layers={layers}"),
            *(
                f"--trainer.max_steps={steps}",
                f"--trainer.val_check_interval={-(-steps // CHECKS)}",
            ),
            *([f"--model.config.learning_rate={NO_RATE}"] if steps == 1 else []),
            *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        ]
        subprocess.run(command, check=True)
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        network = SToFM.from_pretrained(folder / "model").state.network
        weights = sum(
            weight.numel()
            for name, weight in network.named_parameters()
            if not name.startswith("encoder.")
        )
        row = {"width": width, "layers": layers, "steps": steps, "weights": weights}
        rows.append(row | {"cpu_seconds": round(seconds)} | best(folder / "csv"))
        write_result({**environment(), "rows": rows}, args.output)
        print(rows[-1], flush=True)


def best(logs: Path) -> dict[str, float]:
    """Return the lowest loss on the held-out slices, its step, and the loss of the baseline."""
    found = []
    for file in sorted(logs.glob("*/metrics.csv")):
        with file.open() as opened:
            for line in csv.DictReader(opened):
                if line.get("val/loss"):
                    found.append((float(line["val/loss"]), int(line["step"]) + 1, line))
    loss, step, line = min(found, key=lambda one: one[:2])
    plain = {
        name.removeprefix("val/"): float(value)
        for name, value in line.items()
        if name.endswith("_plain") and value
    }
    return {"loss": loss, "best_step": step, **plain}


if __name__ == "__main__":
    main()
