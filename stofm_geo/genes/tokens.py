"""Rank-value encoding: a cell as the list of its genes, by expression relative to the median."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._linalg import BLOCK
from stofm_geo.genes import _rank_loops
from stofm_geo.genes.counts import count_blocks
from stofm_geo.genes.identifiers import ensembl_ids
from stofm_geo.genes.vocabulary import CLS, Vocabulary
from stofm_geo.ops import threads

MAX_LENGTH = 2048  # of the published cell encoder


def token_blocks(
    adata: AnnData, vocabulary: Vocabulary, max_length: int = MAX_LENGTH, rows: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield :func:`rank_tokens` in blocks of cells, so that a backed file is never read as a whole.

    Args:
        adata: Counts in ``X`` and Ensembl ids; in memory or opened with ``backed="r"``.
        vocabulary: Tokens and medians.
        max_length: Maximum number of tokens of a cell, including ``<cls>``.
        rows: Maximum number of cells of a block.

    Yields:
        Tokens of a block ``[T]``, and the offset of each cell ``[b + 1]``.

    Raises:
        KeyError, TypeError, ValueError: Invalid counts or gene names.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import Vocabulary, token_blocks
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> adata.var_names = [f"ENSG{i:011d}" for i in range(30)]
        >>> vocabulary = Vocabulary.from_corpus([adata])
        >>> [len(ptr) - 1 for tokens, ptr in token_blocks(adata, vocabulary, rows=150)]
        [150, 50]
    """
    genes = ensembl_ids(adata)
    for counts in count_blocks(adata, rows):
        yield rank_tokens(counts, genes, vocabulary, max_length)


def rank_tokens(
    counts: sp.csr_matrix,
    genes: np.ndarray,
    vocabulary: Vocabulary,
    max_length: int = MAX_LENGTH,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the tokens of all cells: their genes, by expression relative to the median.

    Genes are sorted by :math:`10^4 \, c_g / (\sum_{g'} c_{g'} \, m_g)`, largest first, ties by
    their order in the file; ``<cls>`` comes first, and the list is cut at ``max_length`` (Theodoris
    et al. 2023; arXiv 2507.11588). The sum is over all genes of the file, also those without a
    token.

    Args:
        counts: Counts ``[n, G]``, without explicit zeros.
        genes: Ensembl ids ``[G]``.
        vocabulary: Tokens and medians.
        max_length: Maximum number of tokens of a cell, including ``<cls>``.

    Returns:
        Tokens of all cells in order ``[T]`` int32, and the offset of each cell ``[n + 1]``.

    Raises:
        ValueError: No gene has a token.

    Examples:
        >>> import numpy as np
        >>> from scipy.sparse import csr_matrix
        >>> from stofm_geo.genes import Vocabulary, rank_tokens
        >>> gfap, mbp = "ENSG00000131095", "ENSG00000197971"
        >>> tokens = {"<pad>": 0, gfap: 1, mbp: 2, "<cls>": 3}
        >>> vocabulary = Vocabulary(tokens, {gfap: 1.0, mbp: 0.1})
        >>> counts = csr_matrix([[3.0, 1.0], [2.0, 0.0]])
        >>> tokens, ptr = rank_tokens(counts, np.array([gfap, mbp]), vocabulary)
        >>> tokens.tolist(), ptr.tolist()
        ([3, 2, 1, 3, 1], [0, 3, 5])
    """
    token, median = vocabulary.lookup(genes)
    if not (token >= 0).any():
        names = ", ".join(map(str, genes[:3]))
        raise ValueError(
            f"none of the {len(genes)} genes ({names}, ...) has a token; "
            "Ensembl ids are needed (ENSG..., or ENSMUSG... with a table of orthologs)"
        )
    structure, cost = (counts.indptr, counts.indices), counts.nnz // 20
    length = np.empty(counts.shape[0], dtype=np.int64)
    threads.run_over_rows(
        lambda a, b: _rank_loops.lengths(a, b, *structure, token, max_length, length),
        structure[0],
        cost,
    )
    ptr = np.concatenate([[0], np.cumsum(length)])
    tokens = np.empty(ptr[-1], dtype=np.int32)
    outputs = counts.data, token, median, vocabulary.tokens[CLS], ptr, tokens
    threads.run_over_rows(
        lambda a, b: _rank_loops.ranks(a, b, *structure, *outputs), structure[0], cost
    )
    return tokens, ptr
