from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from stofm_geo.genes import Vocabulary, ensembl_ids, rank_tokens, token_blocks

GENES = np.array([f"ENSG{i:02}" for i in range(30)])


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    rng = np.random.default_rng(0)
    known = [gene for gene in GENES if gene not in ("ENSG03", "ENSG11")]
    tokens = {"<pad>": 0, "<mask>": 1} | {gene: i + 2 for i, gene in enumerate(known)}
    tokens["<cls>"] = len(tokens)
    medians = {gene: float(rng.choice([0.5, 1.0, 2.0])) for gene in known}
    return Vocabulary(tokens, medians)


def slow_tokens(counts: np.ndarray, vocabulary: Vocabulary, most: int) -> list[list[int]]:
    """A cell at a time."""
    found = []
    for row in counts.astype(np.float64):
        values = []
        for place, gene in enumerate(GENES):
            if gene in vocabulary.medians and row[place] > 0:
                value = row[place] / row.sum() * 10_000 / vocabulary.medians[gene]
                values.append((-value, place, vocabulary.tokens[gene]))
        found.append([vocabulary.tokens["<cls>"], *(token for *_, token in sorted(values))][:most])
    return found


@pytest.mark.parametrize("most", [2048, 5, 1])
def test_a_cell_at_a_time(vocabulary, most: int) -> None:
    counts = np.random.default_rng(1).poisson(0.8, (60, 30)).astype(np.float32)
    counts[7] = 0
    tokens, ptr = rank_tokens(sp.csr_matrix(counts), GENES, vocabulary, most)
    cells = [part.tolist() for part in np.split(tokens, ptr[1:-1])]
    assert cells == slow_tokens(counts, vocabulary, most)
    assert cells[7] == [vocabulary.tokens["<cls>"]]


@pytest.mark.parametrize("most", [2048, 400, 2])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e12])
def test_cells_of_many_genes(most: int, scale: float) -> None:
    """Enough of them for the rounds over digits; many values alike, and some nearly."""
    rng = np.random.default_rng(0)
    genes = np.array([f"ENSG{i:04}" for i in range(900)])
    tokens = {"<pad>": 0} | {gene: i + 1 for i, gene in enumerate(genes)} | {"<cls>": 901}
    medians = rng.choice([0.5, 1, 1 + 1e-9, 2, 1 / 3, 1 / 3 + 1e-16, scale], 900)
    vocabulary = Vocabulary(tokens, dict(zip(genes, medians.tolist(), strict=True)))
    counts = rng.poisson(3, (20, 900)).astype(np.float64)
    counts[:10] *= rng.choice([1, 0.25, 7e5], (10, 900))  # sums are exact
    counts[5] = 4
    found, ptr = rank_tokens(sp.csr_matrix(counts), genes, vocabulary, most)
    for row, own in zip(counts, np.split(found, ptr[1:-1]), strict=True):
        value = row / row.sum() * 10_000 / medians
        order = np.argsort(-value, kind="stable")[: np.count_nonzero(row)]
        assert own.tolist() == [901, *(order + 1).tolist()][:most]


def test_no_cells(vocabulary) -> None:
    tokens, ptr = rank_tokens(sp.csr_matrix((0, 30), dtype=np.float32), GENES, vocabulary)
    assert len(tokens) == 0 and ptr.tolist() == [0]


def test_genes_without_tokens_are_named(vocabulary) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 genes \(Gad1, Slc17a7, \.\.\.\)"):
        rank_tokens(sp.csr_matrix(np.ones((3, 2))), np.array(["Gad1", "Slc17a7"]), vocabulary)


def test_ensembl_ids_are_found() -> None:
    adata = AnnData(np.ones((2, 3), dtype=np.float32))
    adata.var_names = ["ENSG1.4", "ENSG2", "ENSMUSG3.11"]
    assert ensembl_ids(adata).tolist() == ["ENSG1", "ENSG2", "ENSMUSG3"]
    adata.var["gene_ids"] = adata.var_names
    adata.var_names = ["A", "B", "C"]
    assert ensembl_ids(adata).tolist() == ["ENSG1", "ENSG2", "ENSMUSG3"]
    del adata.var["gene_ids"]
    with pytest.raises(KeyError, match=r"no Ensembl ids: var_names are A, B, C"):
        ensembl_ids(adata)


@pytest.mark.parametrize("rows", [7, 100])
def test_blocks_of_a_backed_file_are_the_whole(vocabulary, tmp_path, rows: int) -> None:
    counts = sp.csr_matrix(np.random.default_rng(1).poisson(0.8, (60, 30)))
    adata = AnnData(counts)
    adata.var_names = GENES
    adata.write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    tokens, ptr = rank_tokens(counts, GENES, vocabulary, 9)
    for given in (adata, backed):
        blocks = list(token_blocks(given, vocabulary, 9, rows))
        assert len(blocks) == -(-60 // rows)
        np.testing.assert_array_equal(np.concatenate([t for t, _ in blocks]), tokens)
        lengths = np.concatenate([np.diff(p) for _, p in blocks])
        np.testing.assert_array_equal(lengths, np.diff(ptr))
    backed.file.close()
