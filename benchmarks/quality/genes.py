"""How many genes of real slices become human Ensembl ids, and how much of the counts they have.

``python -m benchmarks.quality.genes --data DIR -o benchmarks/results/genes.json``: every .h5ad file
of a folder, with the names it has, and with the symbols of ``var["gene_symbol"]`` alone. Where the
file knows the human ids itself it is told how many of the ids found by symbols are the same.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData, read_h5ad

from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.genes import GeneTable, match_genes

KNOWN = {"human": "ensembl_id", "mouse": "human_ensembl_id"}  # columns of human ids


def rows(file: Path) -> list[dict[str, Any]]:
    """A row with names as they are, and one from symbols alone."""
    adata = read_h5ad(file)
    named = adata.var["gene_symbol"].astype(str).to_numpy() != ""
    alone = AnnData(adata.X[:, named], obs=adata.obs[[]], var=adata.var.loc[named, []])
    alone.var_names = pd.Index(adata.var["gene_symbol"][named].astype(str))
    found = []
    for names, part in (("as they are", adata), ("symbols alone", alone)):
        start = time.perf_counter()
        match = match_genes(part)
        row = {
            "file": file.stem,
            "names": names,
            "organism": match.organism,
            "genes": len(match.ids),
            "matched": int((match.ids != "").sum()),
            "share_of_genes": round(match.share_of_genes, 4),
            "share_of_counts": round(match.share_of_counts, 4),
            "seconds": round(time.perf_counter() - start, 2),
            "unmatched": match.unmatched[:10],
        }
        if part is alone:
            known = adata.var.loc[named, KNOWN[match.organism]].astype(str).to_numpy()
            both = (known != "") & (match.ids != "")
            row["same_as_in_file"] = round(float((known[both] == match.ids[both]).mean()), 4)
        found.append(row)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows without examples, as a table."""
    columns = [name for name in found[-1] if name != "unmatched"]
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(name, "")) for name in columns] for row in found]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    start = time.perf_counter()
    table = GeneTable.installed()
    seconds = round(time.perf_counter() - start, 2)
    found = [row for file in sorted(options.data.glob("*.h5ad")) for row in rows(file)]
    print(f"{table!r}, read in {seconds} s\n\n{markdown(found)}")
    write_result(
        {"environment": environment(), "table": repr(table), "seconds": seconds, "rows": found},
        options.output,
    )


if __name__ == "__main__":
    main()
