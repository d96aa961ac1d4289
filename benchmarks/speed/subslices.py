"""Making the published sub-slices of a slice, against the published code.

``python -m benchmarks.speed.subslices --reference DIR -o benchmarks/results/subslices.json``, where
DIR is a checkout of the GitHub repository PharMolix/SToFM; that needs scanpy. Without it only ours
is run.

Cells anywhere in a square, 49 virtual cells, sub-slices of 1000 cells; from positions, features and
virtual cells to all that the model is given. The published code is run on the CPU, as it does where
there is no GPU; ours is checked to give the same distances.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import environment, write
from benchmarks.speed._reference import published_extraction
from benchmarks.speed._timing import interleaved
from stofm_geo.models.official import subslices
from stofm_geo.models.official.slices import NOT_TOLD, normalized

MACRO, CHANNELS = 49, 256


def published(extraction: Any, given: list[np.ndarray]) -> list[dict[str, torch.Tensor]]:
    """As the published ``load_data`` does, after reading the file."""
    positions, features, macro_positions, macro_features = given
    pos = normalized(positions)
    made = []
    for nodes, x, rows in zip(*extraction.split_graph(pos, features, 1000), strict=True):
        special = 1 + len(macro_positions)
        kind = torch.zeros(special + len(nodes), dtype=torch.int32)
        kind[0], kind[1:special] = 1, 2
        made.append(
            extraction.get_input(
                np.concatenate([np.zeros((1, 2)), macro_positions, nodes]),
                np.concatenate([np.zeros((1, x.shape[1])), macro_features, x]),
                np.concatenate([np.full(special, -1), rows]),
                kind,
            )
        )
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--reference", type=Path, help="a checkout of PharMolix/SToFM")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    draw = np.random.default_rng(0)
    given = [
        draw.uniform(0, 100, (options.cells, 2)),
        draw.normal(size=(options.cells, CHANNELS)).astype(np.float32),
        draw.uniform(-35, 35, (MACRO, 2)),
        draw.normal(size=(MACRO, CHANNELS)).astype(np.float32),
    ]
    works = {"ours": lambda: subslices(*given)}
    pieces = works["ours"]()
    if options.reference:
        extraction = published_extraction(options.reference)
        works["published"] = lambda: published(extraction, given)
        for piece, other in zip(pieces, works["published"](), strict=True):
            full = torch.full((piece.num_nodes, piece.num_nodes), NOT_TOLD)
            full[piece.edge_index[1], piece.edge_index[0]] = piece.edge_attr
            if (gap := float((full - other["attn_bias"]).abs().max())) > 1e-4:
                raise AssertionError(f"distances are off by {gap}")
    rows = interleaved(works, "ours", options.rounds, seconds=600.0)
    for name, row in rows.items():
        lower, upper = row["quartiles_ms"]
        print(f"{name:10}{row['median_ms']:9.1f} ms ({lower:.1f} to {upper:.1f})", end="")
        print(f"   {row['ratio']:.1f} times ours")
    settings = {"cells": options.cells, "rounds": options.rounds, "subslices": len(pieces)}
    result = {"environment": environment(), "threads": options.threads, "settings": settings}
    write(result | {"reference_run": bool(options.reference), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
