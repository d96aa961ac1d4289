"""Genes that slices share, and their counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo import datasets
from stofm_geo.genes import counts_of_genes, shared_genes


def test_names_are_in_the_order_of_the_first_slice() -> None:
    adata = datasets.toy_tissue(100, 60, seed=0)
    found = shared_genes([adata, adata[:, ::-1][:, :55]])
    np.testing.assert_array_equal(found, adata.var_names[5:])


def test_counts_have_the_columns_of_the_genes() -> None:
    adata = datasets.toy_tissue(100, 30, seed=0)
    genes = adata.var_names.to_numpy()[[7, 2, 11]]
    found = counts_of_genes(adata, genes)
    np.testing.assert_array_equal(found.toarray(), sp.csr_matrix(adata.X).toarray()[:, [7, 2, 11]])


def test_a_missing_gene_is_named() -> None:
    adata = datasets.toy_tissue(100, 30, seed=0)
    with pytest.raises(ValueError, match="var_names has no 'Gal1'"):
        counts_of_genes(adata, np.array([adata.var_names[0], "Gal1"]))
