"""Every file that there is, by the command a user types.

``python -m benchmarks.quality.files --data DIR -o benchmarks/results/files.json`` runs
``stofm-geo embed`` on every .h5ad file of a folder, in a process of its own, and notes seconds,
peak memory, whether every number is finite and, where ``obs["region"]`` knows the answer, the
adjusted Rand index of the domains. Resumable: files that the output has are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from anndata import read_h5ad
from sklearn.metrics import adjusted_rand_score

from stofm_geo.benchmark.records import environment, write_result

SLICE_KEY = "slice_id"  # of files with several slices


def command(file: Path) -> dict[str, Any]:
    """One run of ``stofm-geo embed``."""
    adata = read_h5ad(file, backed="r")
    labelled = "region" in adata.obs
    n_domains = adata.obs["region"].nunique() if labelled else 8
    slice_key = ["--slice-key", SLICE_KEY] if adata.obs[SLICE_KEY].nunique() > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5ad"
        arguments = ["embed", str(file), "-o", str(out), "--n-domains", str(n_domains)]
        arguments += [*slice_key, "--plot", str(Path(folder) / "out.png")]
        arguments += ["--label-key", "region"] if labelled else []
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "stofm_geo", *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        row: dict[str, Any] = {"file": file.stem, "commit": environment()["commit"]}
        row |= {"cells": adata.n_obs, "genes": adata.n_vars, "exit": status}
        row |= {"seconds": round(seconds, 1), "peak_gb": round(usage.ru_maxrss / 2**20, 2)}
        if status == 0:
            done = read_h5ad(out)
            row["finite"] = bool(np.isfinite(done.obsm["X_stofm"]).all())
            if labelled:
                known = done.obs["region"].notna().to_numpy()
                pair = done.obs["region"][known].astype(str), done.obs["stofm_domain"][known]
                row["ari"] = round(adjusted_rand_score(*pair), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .h5ad files")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    done = {row["file"] for row in rows}
    for file in sorted(options.data.glob("*.h5ad")):
        if file.stem not in done:
            rows.append(command(file))
            print(rows[-1], flush=True)
            write_result({"environment": environment(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
