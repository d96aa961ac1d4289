from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stofm_geo.genes import GeneTable, gene_table, match_genes

H, M = "ENSG{:011d}".format, "ENSMUSG{:011d}".format
TABLE = GeneTable(
    human={"TP53": H(1), "GAPDH": H(2), "HLA-B": H(3), "CD4": H(4)},
    mouse={"Trp53": M(1), "Gapdh": M(2), "Cd4": M(4), "Gm1": M(5)},
    orthologs={M(1): H(1), M(2): H(2), M(4): H(4)},
)


def counted(names: list[str], counts: list[int] | None = None, **columns: list) -> AnnData:
    var = pd.DataFrame(columns, index=pd.Index(names, dtype=object))
    return AnnData(np.array([counts or [1] * len(names)], np.float32), var=var)


@pytest.fixture
def no_tables(monkeypatch) -> None:
    monkeypatch.setattr(gene_table, "find_spec", lambda name: None)
    gene_table._installed.cache_clear()


def test_shares_and_what_is_left() -> None:
    match = match_genes(counted(["TP53", "few", "many", "gapdh"], [4, 1, 2, 3]), table=TABLE)
    assert match.organism == "human"
    assert match.ids.tolist() == [H(1), "", "", H(2)]
    assert match.unmatched == ["many", "few"]
    assert (match.share_of_genes, match.share_of_counts) == (0.5, 0.7)
    assert str(match) == (
        "2 of 4 human genes (50%, with 70% of the counts) have a human Ensembl id "
        f"(TP53 -> {H(1)}, gapdh -> {H(2)}); those without, most counted first: many, few"
    )


def test_human_ids_need_no_table(no_tables) -> None:
    match = match_genes(counted([f"{H(1)}.3", H(2)]))
    assert match.ids.tolist() == [H(1), H(2)] and match.unmatched == []
    with pytest.warns(UserWarning, match=r"1 of 3 genes have no human Ensembl id.*pip install"):
        match = match_genes(counted([H(1), H(2), "GFP"]))
    assert match.ids.tolist() == [H(1), H(2), ""]


@pytest.mark.parametrize("names", [["TP53", "GAPDH"], [M(1), M(2)], [H(1), "TP53", "GAPDH"]])
def test_all_else_does(no_tables, names: list[str]) -> None:
    with pytest.raises(ImportError, match=r"^symbols and mouse genes need tables: pip install"):
        match_genes(counted(names))


def test_mouse_by_ids_then_by_symbols() -> None:
    adata = counted(
        ["Trp53", "Gapdh", "x", "Gm1"],
        ensembl_id=[f"{M(1)}.2", "", M(99), ""],
        gene_name=["", "", "Cd4", ""],
    )
    match = match_genes(adata, table=TABLE)
    assert match.organism == "mouse"
    assert match.ids.tolist() == [H(1), H(2), H(4), ""]  # an id that is not known has a symbol


def test_symbols_as_others_write_them() -> None:
    match = match_genes(counted(["TP53", "TP53-1", "TP53.2", "HLA.B", "cd4"]), table=TABLE)
    assert match.ids.tolist() == [H(1), H(1), H(1), H(3), H(4)]


def test_organism_is_taken_at_its_word() -> None:
    adata = counted(["GAPDH", "TRP53"])
    assert match_genes(adata, "mouse", TABLE).ids.tolist() == [H(2), H(1)]
    adata = counted(["hg19_TP53", "mm10_Trp53", "mm10_Gapdh"])
    assert match_genes(adata, "human", TABLE).ids.tolist() == [H(1), "", ""]


def test_tables_as_files(tmp_path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"ensembl_id,gene_symbol\n{H(7)},MINE\n")
    for table in (path, str(path), [path]):
        assert match_genes(counted(["MINE"]), table=table).ids.tolist() == [H(7)]
    for table in ({"MINE": H(7)}, 3, [3]):
        with pytest.raises(TypeError, match="table must be a GeneTable, a file or a list of files"):
            match_genes(counted(["MINE"]), table=table)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [H(1), H(2), H(3), M(1)],
            rf"genes of two species: 3 human \({H(1)}, {H(2)}, {H(3)}\) and 1 mouse \({M(1)}\); "
            "split them first",
        ),
        (["GRCh38_TP53", "mm10___Trp53"], r"1 human \(GRCh38_TP53\) and 1 mouse \(mm10___Trp53\)"),
        (["TP53", "GAPDH", "Trp53"], r"2 human \(TP53, GAPDH\) and 1 mouse \(Trp53\)"),
    ],
)
def test_two_species(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_genes(counted(names), table=TABLE)


def test_a_stray_gene_makes_no_second_species() -> None:
    names = [H(i) for i in range(30)]
    assert match_genes(counted([*names, "Trp53"]), table=TABLE).unmatched == ["Trp53"]


def test_no_known_species() -> None:
    with pytest.raises(ValueError, match=r"no name is a known gene .* var_names are g1, g2, and"):
        match_genes(counted(["g1", "g2"]), table=TABLE)
    with pytest.raises(ValueError, match="organism must be 'auto', 'human' or 'mouse'; found 'ra"):
        match_genes(counted(["TP53"]), "rat", TABLE)
