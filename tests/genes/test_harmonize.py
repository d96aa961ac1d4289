from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from stofm_geo.genes import GeneTable, harmonize, match_genes

H, M = "ENSG{:011d}".format, "ENSMUSG{:011d}".format
TABLE = GeneTable(
    human={f"G{i}": H(i) for i in range(9)},
    mouse={f"g{i}": M(i) for i in range(9)},
    orthologs={M(i): H(i // 2) for i in range(9)},
)
COUNTS = np.array([[1, 2, 3, 4], [0, 0, 0, 7], [5, 0, 6, 0]])


@pytest.fixture
def adata() -> AnnData:
    adata = AnnData(sp.csr_matrix(COUNTS), var=pd.DataFrame(index=["G2", "G1", "g2", "other"]))
    adata.obs["label"] = ["a", "b", "c"]
    adata.obsm["spatial"] = np.arange(6.0).reshape(3, 2)
    adata.obsp["near"] = sp.eye(3, format="csr")
    adata.uns["from"] = "somewhere"
    adata.layers["old"] = adata.X.copy()
    return adata


@pytest.mark.filterwarnings("ignore:1 of 3 cells")
def test_names_are_mapped_and_counts_summed(adata) -> None:
    done = harmonize(adata, "human", TABLE)
    assert done.var_names.tolist() == [H(1), H(2)]
    assert done.var["names"].tolist() == ["G1", "G2,g2"]
    assert done.X.format == "csr" and done.X.dtype == np.float32 and done.X.has_canonical_format
    np.testing.assert_array_equal(done.X.toarray(), [[2, 4], [0, 0], [0, 11]])
    assert done.uns["stofm_genes"] == {
        "organism": "human",
        "n_genes": 4,
        "n_matched": 3,
        "n_human_genes": 2,
        "share_of_genes": 0.75,
        "share_of_counts": 17 / 28,
        "unmatched": ["other"],
    }


@pytest.mark.filterwarnings("ignore:1 of 3 cells")
def test_what_is_of_cells_stays_and_the_input_is_as_it_was(adata) -> None:
    done = harmonize(adata, "human", TABLE)
    assert done.obs.equals(adata.obs) and done.obs is not adata.obs
    assert done.obsm["spatial"] is adata.obsm["spatial"]
    assert done.obsp["near"] is adata.obsp["near"]
    assert done.uns["from"] == "somewhere" and not done.layers
    assert list(adata.uns) == ["from"] and adata.var_names[0] == "G2"
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    view = adata[[0, 2]]
    harmonize(view, "human", TABLE).obsm["spatial"][:] = -1
    assert view.is_view and adata.obsm["spatial"].min() == 0


@pytest.mark.filterwarnings("ignore:1 of 3 cells")
@pytest.mark.parametrize("storage", [np.asarray, sp.csc_matrix, sp.csr_array])
def test_any_storage_there_and_back(adata, tmp_path, storage) -> None:
    adata.X = storage(COUNTS.astype(np.float64))
    expected = harmonize(adata, "human", TABLE)
    adata.write_h5ad(tmp_path / "slice.h5ad")
    backed = read_h5ad(tmp_path / "slice.h5ad", backed="r")
    done = harmonize(backed, "human", TABLE)
    backed.file.close()
    np.testing.assert_array_equal(done.X.toarray(), expected.X.toarray())
    done.write_h5ad(tmp_path / "done.h5ad")
    report = read_h5ad(tmp_path / "done.h5ad").uns["stofm_genes"]
    assert report["organism"] == "human" and list(report["unmatched"]) == ["other"]


@pytest.mark.filterwarnings("ignore:1 of 3 cells")
def test_twice_is_once(adata, tmp_path) -> None:
    once = harmonize(adata, "human", TABLE)
    twice = harmonize(once)
    assert twice.var_names.equals(once.var_names)
    np.testing.assert_array_equal(twice.X.toarray(), once.X.toarray())
    twice.write_h5ad(tmp_path / "twice.h5ad")  # with an empty list of unmatched names


def test_names_that_occur_twice_are_summed(adata) -> None:
    adata.var_names = ["G1", "G1", "G1", "G2"]
    np.testing.assert_array_equal(
        harmonize(adata, table=TABLE).X.toarray(), [[6, 4], [0, 7], [11, 0]]
    )


def test_many_mouse_genes_of_one_human_gene(adata) -> None:
    adata.var_names = ["g2", M(3), f"{M(4)}.1", "g5"]
    done = harmonize(adata, table=TABLE)
    assert done.var["names"].tolist() == [f"g2,{M(3)}", f"{M(4)}.1,g5"]
    np.testing.assert_array_equal(done.X.toarray(), [[3, 7], [0, 7], [5, 6]])


def test_cells_that_lose_all_counts(adata) -> None:
    with pytest.warns(
        UserWarning, match=r"1 of 3 cells have counts of unmatched genes only.*\(1\)"
    ):
        assert harmonize(adata, "human", TABLE).n_obs == 3


@pytest.mark.parametrize(
    ("known", "counts", "says"),
    [
        (7, 1, ""),
        (5, 1, "many genes are left out: 5 of 10 human genes (50%, with 50% of the counts)"),
        (5, 99, ""),  # non-coding genes, say
        (8, 0.1, "many genes are left out: 8 of 10 human genes (80%, with 29% of the counts)"),
        (1, 99, ""),
        (1, 2, "too few genes are known: 1 of 10 human genes (10%, with 18% of the counts)"),
    ],
)
def test_few_genes(known: int, counts: float, says: str) -> None:
    names = [f"G{i}" if i < known else f"x{i}" for i in range(10)]
    values = np.ones((1, 10))
    values[:, :known] = counts
    adata = AnnData(np.ceil(10 * values), var=pd.DataFrame(index=names))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            harmonize(adata, table=TABLE)
        except ValueError as error:
            caught = [error]
    assert [str(getattr(c, "message", c))[: len(says)] for c in caught] == ([says] if says else [])
    if says:
        text = str(getattr(caught[0], "message", caught[0]))
        assert f"G0 -> {H(0)}" in text and "most counted first: x" in text


FILES = {  # least shares of genes and of counts by symbols alone, and the organism
    "cosmx_lung_profast": (0.98, 0.98, "human"),
    "dlpfc_151673": (0.98, 0.98, "human"),
    "dlpfc_151674": (0.98, 0.98, "human"),
    "her2st_labelled_8slices": (0.93, 0.95, "human"),
    "her2st_unlabelled_AB_10slices": (0.93, 0.95, "human"),
    "merfish_hypothalamus_moffitt": (0.95, 0.95, "mouse"),
    "merfish_mop_zhuang_4slices": (0.95, 0.95, "mouse"),
    "osmfish_sscortex": (0.95, 0.95, "mouse"),
    "seqfish_mouse_embryo2": (0.95, 0.95, "mouse"),
    "slideseqv2_hippocampus_crop": (0.75, 0.85, "mouse"),
    "st_mouse_olfactory_bulb": (0.8, 0.9, "mouse"),
    "starmap_visp_1020": (0.9, 0.9, "mouse"),
    "verafish_hippocampus": (0.95, 0.9, "mouse"),
    "xenium_breast_voltron": (0.95, 0.95, "human"),
}
# Of many genes; the others tell the same in less time.
LARGE = (
    "cosmx_lung_profast",
    "dlpfc_151674",
    "her2st_labelled_8slices",
    "her2st_unlabelled_AB_10slices",
    "st_mouse_olfactory_bulb",
)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in FILES]
)
def test_real_files(shared_data: Path, name: str) -> None:
    genes, counts, organism = FILES[name]
    adata = read_h5ad(shared_data / f"{name}.h5ad")
    adata = adata[:: max(adata.n_obs // 500, 1)].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "1 of .* cells have counts of unmatched genes only")
        done = harmonize(adata)
    assert done.uns["stofm_genes"]["organism"] == organism
    assert done.var_names.is_unique and done.var_names.str.fullmatch(r"ENSG\d{11}").all()
    assert done.uns["stofm_genes"]["share_of_genes"] >= genes
    symbols = adata.var["gene_symbol"].astype(str).to_numpy()
    alone = AnnData(adata.X, var=pd.DataFrame(index=symbols))[:, symbols != ""].copy()
    match = match_genes(alone)
    assert match.organism == organism
    assert match.share_of_genes >= genes and match.share_of_counts >= counts
    column = "human_ensembl_id" if organism == "mouse" else "ensembl_id"
    known = adata.var[column].astype(str).to_numpy()[symbols != ""]
    both = (known != "") & (match.ids != "")
    assert both.any() and (known[both] == match.ids[both]).mean() >= 0.99
