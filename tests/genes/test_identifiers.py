from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stofm_geo.genes import ensembl_ids
from stofm_geo.genes.identifiers import gene_names, with_dashes, without_copy_number

H, M = "ENSG{:011d}".format, "ENSMUSG{:011d}".format


def named(names: list[str], **columns: list) -> AnnData:
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    return AnnData(np.ones((2, len(names)), np.float32), var=var)


def test_ensembl_ids_from_a_column_without_versions() -> None:
    adata = named(["A", "B"], gene_ids=[f"{H(1)}.4", H(2)])
    assert ensembl_ids(adata).tolist() == [H(1), H(2)]


def test_symbols_are_sent_to_harmonize() -> None:
    with pytest.raises(KeyError, match=r"no Ensembl ids: var_names are A, B, .*harmonize\(adata\)"):
        ensembl_ids(named(["A", "B"]))


def test_the_first_valid_id_of_any_place() -> None:
    adata = named(
        [f"{H(1)}.12", "B", "C", "ENSG1", f"{H(5)}.1_PAR_Y"],
        gene_ids=[H(9), "", f"{H(3)}.1", None, ""],
        Ensembl_ID=["", H(2), H(8), np.nan, ""],
        human_ensembl_id=[H(7)] * 5,  # of another species' genes
    )
    names = gene_names(adata)
    assert names.ids.tolist() == [H(1), H(2), H(8), "", H(5)]
    assert names.organism.tolist() == ["human", "human", "human", "", "human"]
    assert names.symbols[0].tolist() == ["", "B", "C", "ENSG1", ""]
    assert len(names.symbols) == 3


def test_prefixes_of_genomes() -> None:
    adata = named(["GRCh38_TP53", "mm10___Trp53", f"hg19_{H(1)}", "H2_K1", f"GRCm39_{M(1)}"])
    names = gene_names(adata)
    assert names.symbols[0].tolist() == ["TP53", "Trp53", "", "H2_K1", ""]
    assert names.ids.tolist() == ["", "", H(1), "", M(1)]
    assert names.organism.tolist() == ["human", "mouse", "human", "", "mouse"]


def test_names_that_others_wrote_anew() -> None:
    symbols = np.array(["TBCE", "TBCE-1", "TBCE.2", "NKX2-1", "HLA.B", ""], dtype=object)
    assert without_copy_number(symbols).tolist() == ["", "TBCE", "TBCE", "", "", ""]
    assert with_dashes(symbols)[4] == "HLA-B"


def test_row_numbers() -> None:
    with pytest.raises(
        ValueError,
        match=r"var_names hold numbers or nothing instead of gene names \(0, 1, 2\): row numbers, "
        r"or Entrez ids\? put symbols .* var has \['my genes'\]",
    ):
        gene_names(named(["0", "1", "2"], **{"my genes": ["A", "B", "C"]}))
    with pytest.raises(ValueError, match=r"var_names and var\['gene_id'\] hold numbers or nothing"):
        gene_names(named(["0", "1"], gene_id=[7157, 672]))
    assert gene_names(named(["0", "1"], Symbol=["A", "B"])).symbols[1].tolist() == ["A", "B"]
