"""Making the published sub-slices of a slice, against the published code.

Cells anywhere in a square, 49 virtual cells, sub-slices of 1000 cells; from positions, features and
virtual cells to all that the model is given. The published code, from a checkout of the GitHub
repository PharMolix/SToFM (it needs scanpy), is run on the CPU, as it does where there is no GPU;
ours is checked to give the same distances.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given
from benchmarks.speed._reference import published_extraction
from benchmarks.speed._section import (
    Headline,
    Panel,
    Section,
    Table,
    beside,
    brief,
    line,
    ratio,
    spread,
)
from benchmarks.speed._timing import interleaved
from stofm_geo.models.official import subslices
from stofm_geo.models.official.slices import UNKNOWN_DISTANCE, normalized

MACRO, CHANNELS = 49, 256


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    cells: tuple[int, ...] = (2_000, 10_000, 50_000)
    rounds: int = 9


QUICK = Sizes((1200,), 2)


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Times of ours and, with a checkout, of the published code, over cells."""
    sizes, extraction, without = QUICK if given.quick else Sizes(), None, {}
    if given.reference is None:
        without["the published code"] = "no --reference"
    else:
        try:
            extraction = published_extraction(given.reference)
        except ImportError as error:  # scanpy
            without["the published code"] = str(error)
    rows = [
        watch(f"subslices: {cells} cells", compared, cells, sizes.rounds, extraction)
        for cells in sizes.cells
    ]
    settings = {**asdict(sizes), "threads": torch.get_num_threads()}
    return {"settings": settings, "without": without, "rows": rows}


def compared(cells: int, rounds: int, extraction: ModuleType | None) -> dict[str, Any]:
    """Times at one size."""
    draw = np.random.default_rng(0)
    given = [
        draw.uniform(0, 100, (cells, 2)),
        draw.normal(size=(cells, CHANNELS)).astype(np.float32),
        draw.uniform(-35, 35, (MACRO, 2)),
        draw.normal(size=(MACRO, CHANNELS)).astype(np.float32),
    ]
    works = {"ours": lambda: subslices(*given)}
    ours = works["ours"]()
    if extraction is not None:
        works["published"] = lambda: published(extraction, given)
        for subslice, other in zip(ours, works["published"](), strict=True):
            full = torch.full((subslice.num_nodes, subslice.num_nodes), UNKNOWN_DISTANCE)
            full[subslice.edge_index[1], subslice.edge_index[0]] = subslice.edge_attr
            if (gap := float((full - other["attn_bias"]).abs().max())) > 1e-4:
                raise AssertionError(f"distances are off by {gap}")
    times = interleaved(works, "ours", rounds, seconds=600.0)
    return {"cells": cells, "subslices": len(ours), "times": times}


def report(result: dict[str, Any]) -> Section:
    """Milliseconds of both."""
    rows = result["rows"]
    lines = [
        (brief(row["cells"]), brief(row["subslices"]), name, spread(own), ratio(own))
        for row in rows
        for name, own in row["times"].items()
    ]
    columns = ("cells", "sub-slices", "code", "ms (quartiles)", "times ours")
    points = {
        name: line([(row["cells"], row["times"].get(name, {}).get("median_ms")) for row in rows])
        for name in ("ours", "published")
    }
    table = Table("Sub-slices made", columns, lines)
    headlines = [
        Headline(
            f"published sub-slices, {brief(row['cells'])} cells",
            f"{brief(row['times']['ours']['median_ms'])} ms",
            beside({f"{k} code": own["ratio"] for k, own in row["times"].items() if k != "ours"}),
        )
        for row in rows
    ]
    return Section([table], [Panel("Sub-slices made", "cells", "ms", points)], headlines)


def published(extraction: ModuleType, given: list[np.ndarray]) -> list[dict[str, torch.Tensor]]:
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
