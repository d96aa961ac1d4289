"""How far the scores of domains move when nothing that matters does.

``python -m benchmarks.quality.luck --data DIR [-o FILE]``
scores the same neighbour averages (6 and 18 nearest) of 26, 28, 30, 32 and 34 principal components
as the suite does: adjusted Rand index, mean over four clusterings, mean over the slices of a data
set. A lead that is smaller than their range is none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from stofm_geo.benchmark import DATASETS, TASKS
from stofm_geo.benchmark.baselines import neighbour_averages
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.genes import PCAFeatures

SIZES = (26, 28, 30, 32, 34)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of the suite's files.")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    found: dict[str, dict[int, float]] = {}
    for dataset in ("dlpfc", "osmfish", "starmap"):
        splits = list(TASKS["domains"].splits(DATASETS[dataset].read(args.data), dataset))
        found[dataset] = {}
        for size in SIZES:
            scores = []
            for split in splits:
                problem, score = split.make()
                (part,) = problem.test
                x = PCAFeatures(size).fit([part]).transform(part)
                scores.append(score([neighbour_averages(x, part.obsm["spatial"])])["ari"])
            found[dataset][size] = float(np.mean(scores))
        values = list(found[dataset].values())
        print(f"{dataset}: {min(values):.3f} to {max(values):.3f}", flush=True)
    result: dict[str, Any] = {**environment(), "ari": found}
    if args.output is not None:
        write_result(result, args.output)


if __name__ == "__main__":
    main()
