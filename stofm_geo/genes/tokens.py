"""Rank-value encoding: a cell as the list of its genes, the most unusual amount first."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from stofm_geo.genes.vocabulary import CLS, Vocabulary

MAX_LENGTH = 2048  # of the published cell encoder


def rank_tokens(
    counts: sp.csr_matrix,
    genes: np.ndarray,
    vocabulary: Vocabulary,
    max_length: int = MAX_LENGTH,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Tokens of all cells.

    Genes are sorted by :math:`10^4 \, c_g / (\sum_{g'} c_{g'} \, m_g)`, largest first, ties by
    their order in the file; ``<cls>`` comes in front, and what is longer than ``max_length`` is
    cut (Theodoris et al. 2023; arXiv 2507.11588). The sum goes over all genes of the file, also
    those without a token.

    Args:
        counts: ``[n, G]``, without explicit zeros.
        genes: Ensembl ids ``[G]``.
        vocabulary: Tokens and medians.
        max_length: Most tokens of a cell, ``<cls>`` counted.

    Returns:
        Tokens of one cell after another ``[T]`` int64, and where each cell's start ``[n + 1]``.

    Raises:
        ValueError: No gene has a token.
    """
    token, median = vocabulary.of(genes)
    if not (known := token >= 0).any():
        names = ", ".join(map(str, genes[:3]))
        raise ValueError(
            f"none of the {len(genes)} genes ({names}, ...) has a token; "
            "Ensembl ids are needed (ENSG..., or ENSMUSG... with a table of orthologs)"
        )
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    kept = known[counts.indices]
    row, gene = row[kept], counts.indices[kept]
    value = counts.data[kept].astype(np.float64) / total[row] * 10_000 / median[gene]
    order = np.lexsort((gene, -value, row))
    length = np.bincount(row, minlength=counts.shape[0])
    rank = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    short = rank < max_length - 1
    length = np.minimum(length, max_length - 1) + 1
    ptr = np.concatenate([[0], np.cumsum(length)])
    tokens = np.empty(ptr[-1], dtype=np.int64)
    first = np.zeros(len(tokens), dtype=bool)
    first[ptr[:-1]] = True
    tokens[first], tokens[~first] = vocabulary.tokens[CLS], token[gene[order]][short]
    return tokens, ptr
