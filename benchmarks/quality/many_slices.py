"""Domains of several slices: jointly or one by one, with and without integration.

``python -m benchmarks.quality.many_slices --data DIR [--seeds N] [-o FILE]``
takes the slices of a data set, in plain neighbour averages (6 and 18 nearest) of 30 principal
components and in ``X_stofm`` (a model fitted to these slices; across panels ``stofm-geo-mini``),
integrates them by each method, and finds as many domains as there are labels, jointly and one by
one. Labels only score: adjusted Rand index (ARI) within each slice and over all of them, iLISI and
kBET of slices, cLISI of labels, and the shares of variance that slices and labels have. Beside them
stand mixing and correspondence, of which ``integrate="auto"`` makes its choice without labels. The
score and its gain were settled on her2st, DLPFC and cuttings of DLPFC. That slices with neighbours
in each other are left as they are was decided when all four data sets had been seen: that needs
others to confirm it. What is in FILE is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from benchmarks.quality._mixing import clisi, ilisi, kbet
from stofm_geo import SToFM, tl
from stofm_geo.benchmark import DATASETS
from stofm_geo.benchmark.baselines import neighbour_averages
from stofm_geo.benchmark.clusterings import components
from stofm_geo.benchmark.records import environment, write_result
from stofm_geo.genes import PCAFeatures
from stofm_geo.tasks.agreement import Agreement
from stofm_geo.tasks.integration import choose

METHODS = ("none", "center", "harmony")
# Slices, column of labels, whether a model is fitted to them (else stofm-geo-mini).
SETS: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "her2st": (("her2st",), "region", True),
    "dlpfc": (("dlpfc",), "region", True),
    "osmfish+starmap": (("osmfish", "starmap"), "region", False),
    "merfish": (("merfish",), "cell_type", True),
}
# One slice of each animal, at one place.
ONLY = {"merfish": ("animal1_bregma-0.09", "animal7_bregma-0.09")}
# Names of one region in two files.
COMMON = {
    "CC": "White matter",
    "HPC": "Hippocampus",
    "L1": "Pia Layer 1",
    "L2/3": "Layer 2-3",
    "L4": "Layer 4",
    "L5": "Layer 5",
    "L6": "Layer 6",
    "Layer 2-3 lateral": "Layer 2-3",
    "Layer 2-3 medial": "Layer 2-3",
}


def slices(data: Path, name: str) -> dict[str, AnnData]:
    """Slices of a data set by name, with ``obs["label"]``, NaN where there is none."""
    sources, key, _ = SETS[name]
    every = {k: part for source in sources for k, part in DATASETS[source].read(data).items()}
    found = {k: part for k, part in every.items() if k in ONLY.get(name, every)}
    for part in found.values():
        part.obs["label"] = part.obs[key].astype(object)
    return found


def plain(parts: list[AnnData], seed: int, fitted: bool) -> None:
    """Neighbour averages of principal components of the genes that all slices have."""
    pca = PCAFeatures(30).fit(parts)
    for part in parts:
        part.obsm["z"] = neighbour_averages(pca.transform(part), part.obsm["spatial"][:, :2])


def of_model(parts: list[AnnData], seed: int, fitted: bool) -> None:
    """Embeddings of a model."""
    if fitted:
        model = SToFM().fit(parts, seed=seed, progress=False)
    else:
        model = SToFM.from_pretrained("stofm-geo-mini")
    for part in parts:
        model.embed(part, key_added="z")


VECTORS = {"neighbour averages": plain, "X_stofm": of_model}


def labelled(parts: list[AnnData]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Which cells have a label, and the labels of these, by slice."""
    known = [part.obs["label"].notna().to_numpy() for part in parts]
    each = zip(parts, known, strict=True)
    return known, [part.obs["label"].to_numpy()[own].astype(str) for part, own in each]


def found(parts: list[AnnData], count: int, rep: str, seed: int) -> list[np.ndarray]:
    """Domains of slices, jointly, as they are integrated in ``obsm[rep]``."""
    tl.domains(parts, count, use_rep=rep, integrate="none", seed=seed)
    return [part.obs["stofm_domain"].astype(str).to_numpy() for part in parts]


def one_by_one(parts: list[AnnData], seed: int) -> dict[str, Any]:
    """ARI of each slice's domains by itself, as many as it has labels."""
    known, labels = labelled(parts)
    names = [
        found([part], len(np.unique(own)), "z", seed)[0]
        for part, own in zip(parts, labels, strict=True)
    ]
    each = zip(labels, names, known, strict=True)
    return {"ari": [float(adjusted_rand_score(own, name[has])) for own, name, has in each]}


def joint(parts: list[AnnData], method: str, seed: int) -> dict[str, Any]:
    """What is scored of one method."""
    start = time.perf_counter()
    tl.integrate(parts, use_rep="z", method=method, key_added="z_integrated", seed=seed)
    integrating = time.perf_counter() - start
    known, labels = labelled(parts)
    count = len(set(np.concatenate(labels)))
    start = time.perf_counter()
    names = found(parts, count, "z_integrated", seed)
    clustering = time.perf_counter() - start
    names = [name[has] for name, has in zip(names, known, strict=True)]
    common = np.array([COMMON.get(name, name) for name in np.concatenate(labels)])
    number = np.repeat(np.arange(len(parts)), [has.sum() for has in known])
    rows = np.concatenate(known)
    vectors = components(np.concatenate([part.obsm["z_integrated"] for part in parts]))[rows]
    each = zip(labels, names, strict=True)
    return {
        "ari": [float(adjusted_rand_score(own, name)) for own, name in each],
        "ari_over_slices": float(adjusted_rand_score(common, np.concatenate(names))),
        "ari_of_slices": float(adjusted_rand_score(number, np.concatenate(names))),
        "ilisi": ilisi(vectors, number),
        "kbet": kbet(vectors, number, common),
        "clisi": clisi(vectors, common),
        "domains": count,
        "seconds_integrating": round(integrating, 2),
        "seconds_clustering": round(clustering, 2),
    }


def agreements(parts: list[AnnData], seed: int) -> dict[str, dict[str, float]]:
    """Mixing and correspondence under each method."""
    told = {}
    for method in ("auto", "center", "harmony"):
        tl.integrate(parts, use_rep="z", method=method, key_added="z_integrated", seed=seed)
        told[method] = parts[0].uns["z_integrated"]
    return {name: told["auto" if name == "none" else name][name] for name in METHODS}


def variance(parts: list[AnnData]) -> dict[str, float]:
    """Shares of the variance of vectors: of slices; of the rest, that of labels."""
    known, labels = labelled(parts)
    label = np.unique([COMMON.get(n, n) for n in np.concatenate(labels)], return_inverse=True)[1]
    number = np.repeat(np.arange(len(parts)), [has.sum() for has in known])
    z = np.concatenate([part.obsm["z"][has] for part, has in zip(parts, known, strict=True)])
    z = z.astype(np.float64) - z.mean(axis=0)
    rest = z - _means(z, number)
    return {
        "of_slices": float((_means(z, number) ** 2).sum() / (z**2).sum()),
        "of_labels": float((_means(rest, label) ** 2).sum() / (rest**2).sum()),
        "of_labels_in_each_slice": float(
            (_means(rest, label * len(parts) + number) ** 2).sum() / (rest**2).sum()
        ),
    }


def _means(z: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of each row's group, ``[n, D]``."""
    code = np.unique(group, return_inverse=True)[1]
    member = np.eye(code.max() + 1)[code]
    return ((member / member.sum(axis=0)).T @ z)[code]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A row for each data set, kind of vectors and method: means over slices, ± over seeds."""
    lines = [
        "| data | vectors | method | ARI in slices | ARI over slices | iLISI | kBET | cLISI | "
        "mixing | correspondence |",
        f"|{'---|' * 10}",
    ]
    by_key: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["data"], row["vectors"], row["method"]), []).append(row)
    for key, own in by_key.items():
        if key[2] in ("agreement", "variance"):
            continue
        compared = by_key.get((*key[:2], "agreement"), [])
        ari = [np.mean(r["ari"]) for r in own]
        cells = [f"{np.mean(ari):.3f} ± {np.std(ari):.3f}"]
        for name in ("ari_over_slices", "ilisi", "kbet", "clisi"):
            cells.append(f"{np.mean([r[name] for r in own]):.3f}" if name in own[0] else "")
        for name in ("mixing", "correspondence"):
            of = [r[key[2]][name] for r in compared if key[2] in r]
            cells.append(f"{np.mean(of):.2f}" if of else "")
        times = sum(
            choose({name: Agreement(**r[name]) for name in METHODS}) == key[2] for r in compared
        )
        told = f"{key[2]}{f' (chosen in {times} of {len(compared)})' if times else ''}"
        lines.append(f"| {' | '.join([*key[:2], told, *cells])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of the suite's files.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    rows: list[dict[str, Any]] = []
    if args.output is not None and args.output.exists():
        rows = json.loads(args.output.read_text())["rows"]
    done = {(r["data"], r["vectors"], r["method"], r["seed"]) for r in rows}
    for name in args.sets:
        for vectors, make in VECTORS.items():
            for seed in range(args.seeds):
                methods = ["agreement", *METHODS, "one by one"]
                if make is plain and seed == 0:
                    methods.append("variance")
                methods = [m for m in methods if (name, vectors, m, seed) not in done]
                if not methods:
                    continue
                by_name = slices(args.data, name)
                parts = list(by_name.values())
                make(parts, seed, SETS[name][2])
                for method in methods:
                    if method == "one by one":
                        scores = one_by_one(parts, seed)
                    elif method == "variance":
                        scores = variance(parts)
                    elif method == "agreement":
                        scores = agreements(parts, seed)
                    else:
                        scores = joint(parts, method, seed)
                    key = {"data": name, "vectors": vectors, "method": method, "seed": seed}
                    rows.append({**key, "parts": list(by_name), **scores})
                    print(json.dumps(rows[-1]), flush=True)
                    if args.output is not None:
                        result = {**environment(), "table": table(rows), "rows": rows}
                        write_result(result, args.output)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
