from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from stofm_geo.genes import as_counts
from stofm_geo.genes import counts as module
from stofm_geo.genes.counts import checked_counts, count_blocks, warn_if_row_numbers
from tests.helpers import make_slice

COUNTS = np.random.default_rng(0).poisson(0.7, (20, 9))

STORAGES = {
    "dense float64": lambda c: c.astype(np.float64),
    "dense float32": lambda c: c.astype(np.float32),
    "dense int64": lambda c: c.astype(np.int64),
    "dense uint8": lambda c: c.astype(np.uint8),
    "dense fortran": lambda c: np.asfortranarray(c.astype(np.float32)),
    "csr float32": lambda c: sp.csr_matrix(c.astype(np.float32)),
    "csr float64": lambda c: sp.csr_matrix(c.astype(np.float64)),
    "csr int32": lambda c: sp.csr_matrix(c.astype(np.int32)),
    "csr int64": lambda c: sp.csr_matrix(c.astype(np.int64)),
    "csr array": lambda c: sp.csr_array(c.astype(np.int32)),
    "csc float64": lambda c: sp.csc_matrix(c.astype(np.float64)),
    "csc int64": lambda c: sp.csc_matrix(c.astype(np.int64)),
    "csr unsorted int32": lambda c: unsorted(c.astype(np.int32)),
    "csr unsorted float32": lambda c: unsorted(c.astype(np.float32)),
    "csr zeros int32": lambda c: zeros_stored(c.astype(np.int32)),
    "csr zeros float32": lambda c: zeros_stored(c.astype(np.float32)),
    "csr parts": lambda c: in_parts(c.astype(np.int32)),
}


def unsorted(counts: np.ndarray) -> sp.csr_matrix:
    """What ``adata[:, genes]`` leaves behind."""
    order = np.random.default_rng(1).permutation(counts.shape[1])
    matrix = sp.csr_matrix(counts[:, np.argsort(order)])[:, order]
    assert not matrix.has_sorted_indices
    return matrix


def zeros_stored(counts: np.ndarray) -> sp.csr_matrix:
    n, genes = counts.shape
    columns, ends = np.tile(np.arange(genes), n), genes * np.arange(n + 1)
    return sp.csr_matrix((counts.ravel(), columns, ends), shape=(n, genes))


def in_parts(counts: np.ndarray) -> sp.csr_matrix:
    """A count of c as two entries, 1 and c - 1, which scipy allows."""
    one = sp.csr_matrix(np.minimum(counts, 1))
    twice = [one.data, counts[one.nonzero()] - 1]
    data = np.stack(twice, axis=1).ravel()
    return sp.csr_matrix((data, np.repeat(one.indices, 2), 2 * one.indptr), shape=counts.shape)


@pytest.mark.parametrize("storage", STORAGES)
def test_any_storage_gives_the_same_arrays(storage: str) -> None:
    counts = as_counts(AnnData(STORAGES[storage](COUNTS)))
    expected = sp.csr_matrix(COUNTS.astype(np.float32))
    assert counts.format == "csr" and counts.dtype == np.float32
    np.testing.assert_array_equal(counts.indptr, expected.indptr)
    np.testing.assert_array_equal(counts.indices, expected.indices)
    np.testing.assert_array_equal(counts.data, expected.data)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_users_matrix_stays_as_it_was(storage: str) -> None:
    matrix = STORAGES[storage](COUNTS)
    adata = AnnData(matrix)
    parts = ["data", "indices", "indptr"] if sp.issparse(matrix) else []
    before = [getattr(adata.X, part).copy() for part in parts]
    counts = as_counts(adata)
    counts.data[:] = -5  # nor may the two share memory
    after = sp.csr_matrix(adata.X).toarray()
    np.testing.assert_array_equal(after, COUNTS)
    for part, old in zip(parts, before, strict=True):
        np.testing.assert_array_equal(getattr(adata.X, part), old)


@pytest.mark.parametrize("storage", ["dense float32", "dense int64", "csr int32", "csc float64"])
def test_backed(tmp_path, storage: str) -> None:
    AnnData(STORAGES[storage](COUNTS)).write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    np.testing.assert_array_equal(as_counts(backed).toarray(), COUNTS)
    backed.file.close()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (np.nan, "X holds 2 NaN or infinite values; raw counts are needed"),
        (np.inf, "X holds 2 NaN or infinite values"),
        (-3, r"X holds negative values \(least: -3\).* raw counts are needed"),
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_unfit_values(spoil: float, message: str, sparse: bool) -> None:
    counts = COUNTS.astype(np.float64)
    counts[3, 4] = counts[5, 5] = spoil
    with pytest.raises(ValueError, match=message):
        as_counts(AnnData(sp.csr_matrix(counts) if sparse else counts))


@pytest.mark.parametrize("matrix", [np.zeros((4, 3)), sp.csr_matrix((4, 3))], ids=["dense", "csr"])
def test_all_zero(matrix) -> None:
    with pytest.raises(ValueError, match="all 4 x 3 counts in X are zero"):
        as_counts(AnnData(matrix))


def test_missing_counts() -> None:
    with pytest.raises(ValueError, match=r"X is empty .* name features in obsm"):
        as_counts(AnnData(obs={"a": [1, 2]}))


@pytest.mark.parametrize("values", [np.array([["a", "b"]] * 3), np.full((3, 2), 1 + 2j)])
def test_not_numbers(values: np.ndarray) -> None:
    with pytest.raises(TypeError, match="X must hold numbers; found"):
        as_counts(AnnData(values))


def test_duplicate_gene_names_are_named() -> None:
    adata = AnnData(np.ones((2, 4), np.float32))
    adata.var_names = ["Xist", "Actb", "Xist", "Sox2"]
    with pytest.raises(ValueError, match=r"1 gene names .*\(Xist\); .*var_names_make_unique"):
        as_counts(adata)


@pytest.mark.parametrize("storage", STORAGES)
def test_without_a_copy_the_users_matrix_is_read_only(storage: str) -> None:
    matrix = STORAGES[storage](COUNTS)
    expected = as_counts(AnnData(matrix))
    before = [getattr(matrix, p).copy() for p in ("data", "indices")] if sp.issparse(matrix) else []
    counts = as_counts(AnnData(matrix), copy=False)
    np.testing.assert_array_equal(counts.toarray(), COUNTS)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(counts, part), getattr(expected, part))
    for part, old in zip(("data", "indices"), before, strict=False):
        np.testing.assert_array_equal(getattr(matrix, part), old)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rows", [7, 20, 50])
def test_blocks_are_the_whole(tmp_path, storage: str, rows: int) -> None:
    expected = as_counts(AnnData(STORAGES[storage](COUNTS)))
    AnnData(STORAGES[storage](COUNTS)).write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    for adata in (AnnData(STORAGES[storage](COUNTS)), backed, backed[:]):
        blocks = list(count_blocks(adata, rows))
        assert [b.shape[0] for b in blocks] == [min(rows, 20 - i) for i in range(0, 20, rows)]
        whole = sp.vstack(blocks, format="csr")
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(whole, part), getattr(expected, part))
        assert all(block.dtype == np.float32 for block in blocks)
    some = [3, 4, 9, 17]
    found = np.concatenate([b.toarray() for b in count_blocks(backed[some], 3)])
    np.testing.assert_array_equal(found, COUNTS[some])
    backed.file.close()


@pytest.mark.parametrize("storage", ["csr int32", "dense float32"])
def test_a_backed_file_is_never_read_whole(tmp_path, storage: str, monkeypatch) -> None:
    AnnData(STORAGES[storage](COUNTS)).write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    read, matrix = [], module._csr
    monkeypatch.setattr(module, "_csr", lambda m, c: read.append(m.shape[0]) or matrix(m, c))
    assert len(list(count_blocks(backed, 6))) == 4 and read == [6, 6, 6, 2]
    backed.file.close()


def test_unfit_values_of_a_backed_file(tmp_path) -> None:
    for bad, message in ((-1, "X holds negative values"), (np.nan, "NaN"), (0, "20 x 9 counts")):
        matrix = np.zeros((20, 9), np.float32)
        matrix[15, 2] = bad
        AnnData(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "slice.h5ad")
        backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
        with pytest.raises(ValueError, match=message):
            list(count_blocks(backed, 6))
        backed.file.close()


def test_names_that_are_row_numbers_are_told_of() -> None:
    with pytest.warns(UserWarning, match=r"named by numbers \(0, 1, 2, ...\), probably their row"):
        warn_if_row_numbers(["0", "1", "2", "5"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_row_numbers(["7157", "1956", "672"])  # Entrez ids
        warn_if_row_numbers(["0", "1", "TP53"])
        warn_if_row_numbers([])


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.indices.__setitem__(3, -1), "indices are from -1 to"),
        (lambda x: x.indices.__setitem__(3, 10**9), "indices are from 0 to 1000000000, but"),
        (lambda x: x.indptr.__setitem__(2, 0), "indptr decreases"),
        (lambda x: x.indptr.__setitem__(-1, 10**6), "indptr ends at 1000000, and there are"),
    ],
)
def test_damaged_sparse_matrices(kind, change, message: str) -> None:
    adata = make_slice(30, 9)
    adata.X = kind(adata.X)
    change(adata.X)
    with pytest.raises(ValueError, match=f"X is a damaged sparse matrix .{message}"):
        as_counts(adata)


def test_counts_that_are_in_a_layer() -> None:
    adata = make_slice(30, 9)
    adata.layers["counts"] = adata.X
    adata.X = None
    with pytest.raises(ValueError, match=r"layers .'counts'.; .* layer='counts'"):
        as_counts(adata)


class Lazy:
    """As dask's arrays, whose chunks may be sparse: numbers come when they are asked for."""

    def __init__(self, matrix) -> None:
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype
        self.ndim = 2

    def __getitem__(self, rows) -> Lazy:
        return Lazy(self.matrix[rows])

    def compute(self):
        return self.matrix


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix])
def test_lazy_counts(make) -> None:
    lazy = SimpleNamespace(X=Lazy(make(COUNTS)), layers={}, raw=None, uns={})
    np.testing.assert_array_equal(checked_counts(lazy, copy=False).toarray(), COUNTS)
    layers = {"counts": lazy.X}
    logs = SimpleNamespace(X=np.log1p(COUNTS) - 1, layers=layers, raw=None, uns={})
    with pytest.raises(ValueError, match=r"layer='counts' \(--layer counts\)"):
        checked_counts(logs, copy=False)


@pytest.mark.parametrize("kind", [object, str])
def test_numbers_as_text(kind: type) -> None:
    adata = AnnData(COUNTS.astype(kind))
    with pytest.raises(TypeError, match=r"X must hold numbers.*adata.X = adata.X.astype\(float\)"):
        as_counts(adata)
    adata.X = adata.X.astype(float)
    np.testing.assert_array_equal(as_counts(adata).toarray(), COUNTS)
