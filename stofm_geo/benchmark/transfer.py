"""Labels learned on one study and predicted on another, with other genes, of another species."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo.benchmark import scoring
from stofm_geo.benchmark.common_labels import CELL_TYPES, LAYERS
from stofm_geo.benchmark.datasets import DATASETS, Slices, register_dataset
from stofm_geo.benchmark.problems import GROUP, Problem, Split
from stofm_geo.benchmark.splits import labels_of, with_labels, without_labels
from stofm_geo.genes import harmonize

# Data set: column of obs with the labels.
_KEYS: dict[str, Literal["region", "cell_type"]] = {
    "toy": "region",
    "layers": "region",
    "brain_cells": "cell_type",
}


def _read(folder: Path | None, tables: Mapping[str, Mapping[str, str]], key: str) -> Slices:
    """Read the first slice of each study, with human genes and common names of labels."""
    slices = {}
    for study, names in tables.items():
        adata = next(iter(DATASETS[study].read(folder).values()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # genes without a human ortholog
            adata = harmonize(adata)
        common = adata.obs[key].astype(object).map(names)
        adata.obs = pd.DataFrame({key: common, GROUP: study}, index=adata.obs_names)
        slices[study] = adata
    return slices


def _register(name: str, tables: Mapping[str, Mapping[str, str]], source: str) -> None:
    files = {file: sha for study in tables for file, sha in DATASETS[study].files.items()}
    load = partial(_read, tables=tables, key=_KEYS[name])
    licence = "; ".join(f"{study}: {DATASETS[study].licence}" for study in tables)
    register_dataset(name, load, files=files, source=source, licence=licence)


_register("layers", LAYERS, "cortical layers: osmFISH and STARmap (mouse), Visium (human)")
_register("brain_cells", CELL_TYPES, "cell types of mouse brain: osmFISH, STARmap, MERFISH")


def transfer(slices: Slices, dataset: str) -> Iterator[Split]:
    """Yield a split per ordered pair of studies: labels of the first, cells of the second.

    Cells whose label the first study lacks are not scored.
    """
    key = _KEYS[dataset]

    def make(source: AnnData, target: AnnData) -> tuple[Problem, Callable]:
        known, truth = (labels_of(adata, key) for adata in (source, target))
        train = with_labels(source, known)
        names = sorted({str(name) for name in known if name is not None})
        scored = np.array([name in names for name in truth])
        problem = Problem("transfer", [train], [without_labels(target)], names, [scored])
        problem.label_level = key
        return problem, partial(scoring.classes, problem, [truth])

    for source, target in permutations(slices, 2):
        yield Split(
            f"{source} to {target}",
            partial(make, slices[source], slices[target]),
            "studies",
        )
