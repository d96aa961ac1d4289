from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stofm_geo.genes import GeneTable, gene_table

H, M = "ENSG{:011d}".format, "ENSMUSG{:011d}".format


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "wt") as stream:
        stream.write("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
    return path


def orthologs(folder: Path, *rows: tuple) -> GeneTable:
    header = "mouse_ensembl_id,mouse_symbol,human_ensembl_id,human_symbol,homology_type,confidence"
    lines = [",".join(map(str, row)) for row in rows]
    return GeneTable.read(written(folder, "orthologs.csv", "\n".join([header, *lines])))


def test_biomart(tmp_path) -> None:
    human = written(
        tmp_path,
        "human.csv",
        f"""Gene stable ID,Gene name,Mouse gene name,Mouse gene stable ID,Mouse homology type
        {H(1)},TP53,Trp53,{M(1)},ortholog_one2one
        {H(2)},,,,""",
    )
    mouse = written(
        tmp_path,
        "mouse.csv",
        f"""Gene stable ID,Gene name,Human gene name,Human gene stable ID,Human homology type
        {M(1)},Trp53,TP53,{H(1)},ortholog_one2one
        {M(2)},Gm1,,,""",
    )
    table = GeneTable.read(human, mouse)
    assert table.human == {"TP53": H(1)}
    assert table.mouse == {"Trp53": M(1), "Gm1": M(2)}
    assert table.orthologs == {M(1): H(1)}
    assert repr(table) == "GeneTable(1 human symbols, 2 mouse symbols, 1 orthologs)"


def test_tabs_and_gzip_and_any_case_of_columns(tmp_path) -> None:
    path = written(tmp_path, "t.tsv.gz", f"Ensembl_ID\tGENE_SYMBOL\tused\n{M(3)}\tXist\t0")
    assert GeneTable.read(path) == GeneTable(mouse={"Xist": M(3)})


def test_old_symbols_of_hgnc(tmp_path) -> None:
    path = written(
        tmp_path,
        "hgnc.txt",
        f"""hgnc_id\tsymbol\talias_symbol\tprev_symbol\tensembl_gene_id
        HGNC:1\tNOW\tnick|both|OLD|twice\tBEFORE|twice\t{H(1)}
        HGNC:2\tOLD\tboth|BEFORE\tNOW\t{H(2)}
        HGNC:3\tTHIRD\t\ttwice\t{H(3)}
        HGNC:4\tNONE\t\tGONE\t""",
    )
    table = GeneTable.read(path)
    assert table.human == {
        "NOW": H(1),
        "OLD": H(2),  # approved beats alias and previous
        "THIRD": H(3),
        "BEFORE": H(1),  # previous beats alias
        "nick": H(1),  # "both" and "twice" are two genes' each
    }


def test_symbol_of_several_ids(tmp_path) -> None:
    first = written(
        tmp_path,
        "first.csv",
        f"ensembl_id,gene_symbol\n{H(7)},HLA-B\n{H(5)},HLA-B\n{H(9)},CCL\n{H(8)},CCL",
    )
    second = written(
        tmp_path, "second.csv", f"ensembl_id,gene_symbol\n{H(7)},HLA-B\n{H(4)},CCL\n{H(6)},NEW"
    )
    assert GeneTable.read(first, second).human == {"HLA-B": H(7), "CCL": H(8), "NEW": H(6)}


def test_which_ortholog(tmp_path) -> None:
    table = orthologs(
        tmp_path,
        (M(1), "Aa", H(11), "AA", "ortholog_one2many", 1),
        (M(1), "Aa", H(12), "XX", "ortholog_one2one", 0),
        (M(2), "Bb", H(21), "BB", "ortholog_one2many", 0),
        (M(2), "Bb", H(22), "BB2", "ortholog_one2many", 1),
        (M(3), "Cc", H(31), "CC1", "ortholog_one2many", 0),
        (M(3), "Cc", H(32), "CC2", "ortholog_one2many", 1),
        (M(4), "Dd", H(41), "DD1", "ortholog_one2many", 1),
        (M(4), "Dd", H(42), "DD2", "ortholog_one2many", 1),
        (M(5), "Ee", H(51), "EE1", "ortholog_many2many", 1),
        (M(6), "Ff", H(61), "FF", "ortholog_many2many", 0),
        (M(6), "Ff", H(62), "FF2", "ortholog_many2many", 1),
        (M(7), "Gg", H(11), "AA", "ortholog_one2many", 0),
        (M(8), "Hh", "", "", "", ""),
    )
    assert table.orthologs == {
        M(1): H(12),  # one-to-one
        M(2): H(21),  # the same symbol
        M(3): H(32),  # the highest confidence; of M(4) two are equal, M(5) is many-to-many
        M(6): H(61),  # many-to-many, but the same symbol
        M(7): H(11),  # the only one, though another mouse gene's, too
    }


def test_sources_are_counted_and_an_earlier_file_beats_a_later(tmp_path) -> None:
    first = written(
        tmp_path, "first.csv", f"mouse_ensembl_id,human_ensembl_id\n{M(1)},{H(1)}\n{M(4)},{H(4)}"
    )
    second = written(
        tmp_path,
        "hcop.csv",
        f"""Gene stable ID,Gene name,Human gene stable ID,Human gene name,supporting_source
        {M(1)},A,{H(9)},-,"a,b,c,d,e,f"
        {M(2)},-,{H(2)},-,"a,b,c,d,e"
        {M(2)},-,{H(8)},-,"a,b,c,d,e,f"
        {M(3)},C,{H(3)},C,"a,b,c,d" """,
    )
    table = GeneTable.read(first, second)
    assert table.orthologs == {M(1): H(1), M(4): H(4), M(2): H(8)}
    assert table.mouse == {"A": M(1), "C": M(3)}


def test_any_case_where_it_means_one_gene() -> None:
    table = GeneTable(human={"C1orf1": H(1), "AB": H(2), "Ab": H(3)}, mouse={"Gapdh": M(1)})
    found = table.ids(["C1ORF1", "c1orf1", "AB", "Ab", "ab", "", "no"], "human")
    assert found.tolist() == [H(1), H(1), H(2), H(3), "", "", ""]
    assert table.ids(["GAPDH"], "mouse").tolist() == [M(1)]
    assert table.to_human([M(1)]).tolist() == [""]


def test_bad_files(tmp_path) -> None:
    with pytest.raises(ValueError, match="no tables are given; name one file or more"):
        GeneTable.read()
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        GeneTable.read(tmp_path / "none.csv")
    odd = written(tmp_path, "odd.csv", "id,name\n1,2")
    with pytest.raises(ValueError, match=r"odd\.csv: has the columns id, name; understood are an"):
        GeneTable.read(odd)
    half = written(tmp_path, "half.csv", f"gene_symbol,human_symbol\n{H(1)},A")
    with pytest.raises(ValueError, match="has the columns gene_symbol, human_symbol; understood"):
        GeneTable.read(half)
    for name in ("damaged.csv.gz", "empty.csv"):
        (tmp_path / name).write_bytes(b"no gzip\n" if name.endswith("gz") else b"")
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a table"):
            GeneTable.read(tmp_path / name)


def test_installed() -> None:
    table = GeneTable.installed()
    assert table is GeneTable.installed()
    assert table.human["TP53"] == "ENSG00000141510"
    assert table.human["HLA-A"] == "ENSG00000206503"  # not its copies on other haplotypes
    found = table.to_human(table.ids(["Trp53", "Ccl3", "Xist", "mt-Nd1"], "mouse"))
    assert found.tolist()[:2] == ["ENSG00000141510", "ENSG00000277632"]
    assert found[3] == "ENSG00000198888"


def test_not_installed(monkeypatch) -> None:
    monkeypatch.setattr(gene_table, "find_spec", lambda name: None)
    gene_table._installed.cache_clear()
    with pytest.raises(ImportError) as error:
        GeneTable.installed()
    assert str(error.value) == (
        "symbols and mouse genes need tables: pip install 'stofm-geo[genes]', "
        "or name files with table=..."
    )
