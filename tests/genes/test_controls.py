"""Control probes are no genes; genes of similar names are."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo import SToFM, tl
from stofm_geo.data.corpus.sources import find_sources, read_slice, slices_of
from stofm_geo.datasets import toy_tissue
from stofm_geo.genes import PCAFeatures, harmonize
from stofm_geo.genes.controls import gene_mask
from tests.helpers import SMALL

CONTROLS = """NegControlProbe_00042 NegControlCodeword_0500 NegPrb1 NegPrb01 Negative01 Negative1
BLANK_0006 Blank-1 Blank-E1 blank1 BLANK antisense_PROKR2 antisense_ADCY4 UnassignedCodeword_0001
Unassigned DeprecatedCodeword_0321 Deprecated_12 Intergenic_Region_1 SystemControl1 FalseCode12
ERCC-00002 NegativeControl_3 Negative-Control-Probe-1 NegCtrl-3 SystemControl_2""".split()
GENES = """BLNK NEGR1 Negr1 NEGF1 BLK ERCC1 ERCC6L2 UNASS1 ANTXR1 DPRX CODE1 PROKR2 SYS1 FALZ GENE-1
Blank1p NELFA BANK1 ENSG00000000003 Gm12345 ENSMUSG00000000001.4""".split()


def named(*names: str, **var: list) -> pd.DataFrame:
    return pd.DataFrame(var, index=pd.Index(names))


def test_controls_by_name() -> None:
    assert not gene_mask(named(*CONTROLS)).any()
    genes = [name for name in GENES if name != "Blank1p"]
    assert gene_mask(named(*genes)).all()


def test_types_tell_where_they_name_genes() -> None:
    kinds = ["Gene Expression", "Antibody Capture", "gene expression", None, "Custom"]
    var = named("a", "b", "c", "d", "e", feature_types=kinds)
    assert gene_mask(var).tolist() == [True, False, True, True, False]
    assert gene_mask(var.astype("category")).tolist() == [True, False, True, True, False]
    var["feature_types"] = "Antibody Capture"  # nothing but proteins: then they are what there is
    assert gene_mask(var).all()


@pytest.mark.shared
def test_no_known_gene_is_taken_for_a_control(shared_data: Path) -> None:
    names = set()
    for path in (shared_data.parent / "vocab").rglob("*"):
        if path.suffix in (".gz", ".tsv", ".csv", ".txt"):
            opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
            with opened as lines:
                names |= {word for line in lines for word in line.replace(",", "\t").split()}
    assert len(names) > 50_000
    names = np.array(sorted(names))
    assert names[~gene_mask(named(*names))].tolist() == []


def with_controls(tissue: AnnData) -> AnnData:
    """The same with loud controls, between the genes."""
    rng = np.random.default_rng(0)
    extra = AnnData(
        sp.csr_matrix(rng.poisson(30, (tissue.n_obs, 5)).astype(np.int32)),
        var=named("BLANK_0001", "NegControlProbe_00001", "NegPrb2", "UnassignedCodeword_3", "CD3"),
    )
    genes = [*tissue.var_names[:7], *extra.var_names, *tissue.var_names[7:]]
    counts = sp.hstack([tissue.X[:, :7], extra.X, tissue.X[:, 7:]], format="csr")
    found = AnnData(counts, obs=tissue.obs.copy(), obsm=dict(tissue.obsm), var=named(*genes))
    found.var["feature_types"] = "Gene Expression"
    found.var.loc["CD3", "feature_types"] = "Antibody Capture"
    return found


@pytest.mark.parametrize("encoder", ["pca", "panel"])
def test_a_model_is_as_if_there_were_none(encoder) -> None:
    tissue = toy_tissue(300, 40)
    controls = with_controls(tissue)
    with pytest.warns(UserWarning, match=r"5 of 45 features are not genes .*\(BLANK_0001, Neg"):
        model = SToFM(encoder=encoder, **SMALL).fit(controls, max_steps=2, progress=False)
    alone = SToFM(encoder=encoder, **SMALL).fit(tissue, max_steps=2, progress=False)
    assert model.weights_hash() == alone.weights_hash()
    with pytest.warns(UserWarning, match="5 of 45 features are not genes"):
        model.embed(controls)
    alone.embed(tissue)
    np.testing.assert_array_equal(controls.obsm["X_stofm"], tissue.obsm["X_stofm"])


def test_components_of_an_anndata_are_of_its_genes() -> None:
    tissue = toy_tissue(300, 40)
    with pytest.warns(UserWarning, match="5 of 45 features are not genes"):
        found = PCAFeatures(6).fit([with_controls(tissue)])
    assert found.genes.tolist() == tissue.var_names.tolist()
    expected = PCAFeatures(6).fit([tissue]).transform(tissue)
    np.testing.assert_array_equal(found.transform(tissue), expected)


def test_a_model_that_knows_controls_still_gets_them(monkeypatch) -> None:
    tissue = toy_tissue(300, 40)
    controls = with_controls(tissue)
    before = SToFM(**SMALL)
    with monkeypatch.context() as patch:
        for module in ("stofm_geo.data.slices", "stofm_geo.genes.shared"):
            patch.setattr(f"{module}.gene_mask", lambda var: np.ones(len(var), dtype=bool))
        before.fit(controls, max_steps=2, progress=False)
        before.embed(controls)
    expected = controls.obsm["X_stofm"].copy()
    before.embed(controls)
    np.testing.assert_array_equal(controls.obsm["X_stofm"], expected)


def test_controls_are_not_imputed() -> None:
    tissue = toy_tissue(300, 40)
    panel = tissue[:, :30].copy()
    with pytest.warns(UserWarning, match="5 of 45 features are not genes"):
        tl.impute(panel, with_controls(tissue))
    assert list(panel.obsm["stofm_imputed"]) == list(tissue.var_names[30:])
    found = panel.obsm["stofm_imputed"].copy()
    tl.impute(panel, tissue)
    pd.testing.assert_frame_equal(panel.obsm["stofm_imputed"], found)


def test_an_antibody_is_not_the_gene_of_its_name() -> None:
    counts = sp.csr_matrix(np.arange(1, 13, dtype=np.float32).reshape(3, 4))
    ids = ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419", "ENSG00000000003.1"]
    kinds = ["Gene Expression"] * 3 + ["Antibody Capture"]
    human = harmonize(AnnData(counts, var=named(*ids, feature_types=kinds)))
    assert human["0", "ENSG00000000003"].X.toarray().item() == 1


def test_a_corpus_has_no_controls(tmp_path) -> None:
    tissue = toy_tissue(300, 40)
    with_controls(tissue).write_h5ad(tmp_path / "a.h5ad")
    (which,) = slices_of(find_sources([tmp_path / "a.h5ad"], organism="none")[0])
    with pytest.warns(UserWarning, match="5 of 45 features are not genes"):
        own = read_slice(which)
    assert own.genes.tolist() == sorted(tissue.var_names)
    expected = tissue[own.row, own.genes].X.toarray()
    np.testing.assert_array_equal(own.counts[np.arange(300)].toarray(), expected)
