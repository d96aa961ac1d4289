"""Rank-value tokens of whole files, against a loop over dense rows.

``python -m benchmarks.speed.tokens --data DIR --vocabulary DIR -o benchmarks/results/tokens.json``:
``--data`` with the files, ``--vocabulary`` with Geneformer's dictionaries. The loop is what the
published code does, a cell at a time: divide, find what is not 0, argsort. Its tokens are compared
with ours (values that are alike may change places). Memory is what a call adds at its peak.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp
import torch

from benchmarks._record import environment, write
from benchmarks.speed._memory import forget_peak, memory
from benchmarks.speed._timing import interleaved
from stofm_geo.genes import Vocabulary, as_counts, ensembl_ids, rank_tokens
from stofm_geo.genes.vocabulary import CLS

FILES = ("merfish_hypothalamus_moffitt.h5ad", "her2st_labelled_8slices.h5ad")


def loop(counts: sp.csr_matrix, genes: np.ndarray, vocabulary: Vocabulary) -> list[np.ndarray]:
    """A cell at a time."""
    token, median = vocabulary.of(genes)
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


def measure(file: Path, vocabulary: Vocabulary, rounds: int) -> dict[str, Any]:
    adata = anndata.read_h5ad(file)
    counts, genes = as_counts(adata), ensembl_ids(adata)
    rank_tokens(counts[:10], genes, vocabulary)  # compiles
    forget_peak()
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
    print(f"{file.stem}: {len(cells)} cells, {row['times']['ours']['median_ms']:.0f} ms,", end=" ")
    print(f"the loop {row['times']['loop']['ratio']:.1f} times that;", end=" ")
    print(f"{added:.0f} MB added, the counts are {matrix:.0f} MB;", end=" ")
    print(f"{100 * row['same_cells']:.2f} % of the cells alike")
    return row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--files", nargs="+", default=list(FILES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    vocabulary = Vocabulary.from_pickles(options.vocabulary)
    rows = [measure(options.data / file, vocabulary, options.rounds) for file in options.files]
    result = {"environment": environment(), "threads": options.threads, "rows": rows}
    write(result, options.output)


if __name__ == "__main__":
    main()
