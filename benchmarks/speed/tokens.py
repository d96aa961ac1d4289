"""Rank-value tokens of whole files, against a loop over dense rows.

Needs files of ``--data``, and ``--vocabulary`` with Geneformer's dictionaries. The loop is what the
published code does, a cell at a time: divide, find what is not 0, argsort. Its tokens are compared
with ours (values that are alike may change places). Memory is what a call adds at its peak.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.speed._machine import Watch
from benchmarks.speed._measurements import Given, LeftOut
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
from stofm_geo.benchmark.memory import memory, reset_peak
from stofm_geo.genes import Vocabulary, as_counts, ensembl_ids, rank_tokens
from stofm_geo.genes.vocabulary import CLS

FILES = ("merfish_hypothalamus_moffitt.h5ad", "her2st_labelled_8slices.h5ad")
ROUNDS = 5


def measure(given: Given, watch: Watch) -> dict[str, Any]:
    """Times of ours and of the loop, and what ours adds to memory, over files.

    Raises:
        LeftOut: None of the files is there.
    """
    files = [given.data / name for name in FILES if (given.data / name).exists()]
    if not files:
        raise LeftOut(f"{given.data}: has neither of {', '.join(FILES)}")
    vocabulary = Vocabulary.from_pickles(given.vocabulary)
    rounds = 1 if given.quick else ROUNDS
    rows = [
        watch(f"tokens: {file.name}", compared, file, vocabulary, rounds)
        for file in files[: 1 if given.quick else None]
    ]
    left = set(FILES) - {row["file"] for row in rows}
    without = dict.fromkeys(sorted(left), "--quick" if given.quick else "not in --data")
    settings = {"rounds": rounds, "threads": torch.get_num_threads()}
    return {"settings": settings, "without": without, "rows": rows}


def report(result: dict[str, Any]) -> Section:
    """Milliseconds of both, and memory."""
    rows, names = result["rows"], ("ours", "loop")
    lines = [
        (
            row["file"],
            *(brief(row[key]) for key in ("cells", "genes", "tokens")),
            *(spread(row["times"][name]) for name in names),
            ratio(row["times"]["loop"]),
            *(brief(row[key]) for key in ("added_mb", "csr_mb")),
            f"{100 * row['same_cells']:.2f} %",
        )
        for row in rows
    ]
    columns = ("file", "cells", "genes", "tokens", "ours, ms (quartiles)", "loop, ms (quartiles)")
    columns += ("times ours", "added MB", "counts, MB", "cells alike")
    points = {
        name: line([(row["tokens"], row["times"][name]["median_ms"]) for row in rows])
        for name in names
    }
    table = Table("Tokens of whole files", columns, lines)
    headlines = [
        Headline(
            f"rank-value tokens, {brief(row['cells'])} cells, {brief(row['genes'])} genes",
            f"{brief(row['times']['ours']['median_ms'])} ms",
            beside({"a loop over cells": row["times"]["loop"]["ratio"]}),
        )
        for row in rows
    ]
    panel = Panel("Rank-value tokens, a file each", "tokens", "ms", points, joined=False)
    return Section([table], [panel], headlines)


def loop(counts: sp.csr_matrix, genes: np.ndarray, vocabulary: Vocabulary) -> list[np.ndarray]:
    """A cell at a time."""
    token, median = vocabulary.lookup(genes)
    known = token >= 0
    token, median = token[known], median[known]
    found = []
    for i in range(counts.shape[0]):
        row = counts[i].toarray()[0]
        value = row[known] / row.sum() * 10_000 / median
        there = np.nonzero(value)[0]
        order = there[np.argsort(-value[there])]
        found.append(np.append(vocabulary.tokens[CLS], token[order])[:2048])
    return found


def compared(file: Path, vocabulary: Vocabulary, rounds: int) -> dict[str, Any]:
    """Times, memory and what is the same, of one file."""
    adata = anndata.read_h5ad(file)
    counts, genes = as_counts(adata), ensembl_ids(adata)
    rank_tokens(counts[:10], genes, vocabulary)  # compiles
    reset_peak()
    before = memory("VmRSS")
    tokens, ptr = rank_tokens(counts, genes, vocabulary)
    added = memory("VmHWM") - before
    cells = np.split(tokens, ptr[1:-1])
    same = [
        np.array_equal(own, other)
        for own, other in zip(cells, loop(counts, genes, vocabulary), strict=True)
    ]
    works = {
        "ours": lambda: rank_tokens(counts, genes, vocabulary),
        "loop": lambda: loop(counts, genes, vocabulary),
    }
    matrix = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / 2**20
    row = {"file": file.name, "cells": len(cells), "genes": len(genes), "tokens": len(tokens)}
    row |= {"same_cells": float(np.mean(same)), "added_mb": added, "csr_mb": matrix}
    row["times"] = interleaved(works, "ours", rounds, seconds=60.0)
    return row
