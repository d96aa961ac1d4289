"""References of other tissue are told by how genes vary together."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from anndata import AnnData, read_h5ad

from stofm_geo import tl
from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks._reference import with_shared_genes

UNLIKE = "do not vary together in the reference"


def warned(adata: AnnData, reference: AnnData, organism: str | None = None) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with_shared_genes(adata, reference, organism, None, None)
    return any(UNLIKE in str(one.message) for one in caught)


def test_another_tissue_of_the_same_genes_is_warned_of() -> None:
    adata = toy_tissue(400, 60, seed=0)
    assert not warned(adata[:200], adata[200:])
    renamed = adata.copy()
    renamed.var_names = np.random.default_rng(0).permutation(adata.var_names)
    assert warned(adata, renamed) and warned(adata, toy_tissue(400, 60, seed=1))
    with pytest.warns(UserWarning, match=f"60 shared genes {UNLIKE}.*is it the same tissue"):
        tl.deconvolve(adata[:100].copy(), renamed, "region")


def test_few_cells_and_constant_genes() -> None:
    adata = toy_tissue(60, 12, seed=0)
    flat = adata.copy()
    flat.X = np.ones(flat.shape, dtype=np.float32)
    for other in (flat, adata[:1]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warned(adata, other)
    assert not warned(adata, adata[:1])


@pytest.mark.shared
def test_real_slices(shared_data) -> None:
    def read(name: str) -> AnnData:
        return read_h5ad(shared_data / f"{name}.h5ad")

    cortex, embryo = read("starmap_visp_1020"), read("seqfish_mouse_embryo2")
    assert not warned(cortex, read("osmfish_sscortex"), "auto")
    assert warned(cortex, embryo, "auto")
