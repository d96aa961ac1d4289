"""The tasks, and their problems on each data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._registry import Registry
from stofm_geo.benchmark import scoring
from stofm_geo.benchmark.datasets import Slices
from stofm_geo.benchmark.geometry import axes, chirality
from stofm_geo.benchmark.geometry import tasks as planar
from stofm_geo.benchmark.molecules import held_out_molecules
from stofm_geo.benchmark.problems import LABEL, LOAD, Kind, Problem, Split
from stofm_geo.benchmark.splits import all_splits, labels_of, with_labels, without_labels
from stofm_geo.benchmark.spots import spots
from stofm_geo.benchmark.transfer import transfer


@dataclass(frozen=True)
class Task:
    """Task of the benchmark.

    Attributes:
        kind: Kind of its problems.
        datasets: Names of the data sets it runs on.
        splits: Function from slices (or graphs) and the name of their data set to the splits.
        version: Version of the problems; results of different versions are not comparable.

    Examples:
        >>> from stofm_geo.benchmark import TASKS, Task
        >>> task: Task = TASKS["domains"]
        >>> task.kind, task.datasets
        ('vectors', ('toy', 'dlpfc', 'osmfish', 'starmap'))
    """

    kind: Kind
    datasets: tuple[str, ...]
    splits: Callable[[Any, str], Iterator[Split]]
    version: int = 1


TASKS: Registry[Task] = Registry("task", LOAD)


def register_task(
    name: str,
    kind: Kind,
    datasets: Sequence[str],
    splits: Callable[[Any, str], Iterator[Split]],
    version: int = 1,
) -> None:
    """Register a task; see :class:`Task`.

    Args:
        name: Name of the task.
        kind: See :class:`Task`.
        datasets: See :class:`Task`.
        splits: See :class:`Task`.
        version: See :class:`Task`.

    Raises:
        TypeError, ValueError: ``name`` is invalid or taken, or ``kind`` is unknown.

    Examples:
        >>> from stofm_geo.benchmark import TASKS, register_task
        >>> register_task("my domains", "vectors", ["toy"], TASKS["domains"].splits)
        >>> TASKS["my domains"].datasets
        ('toy',)
    """
    if kind not in scoring.MAIN:
        raise ValueError(f"kind must be one of {', '.join(scoring.MAIN)}; found {kind!r}")
    TASKS.add(name, Task(kind, tuple(datasets), splits, version))


def labels(slices: Slices, dataset: str, key: str) -> Iterator[Split]:
    """Yield splits for predicting the labels ``obs[key]`` of held-out tissue."""

    def make(build: Callable) -> tuple[Problem, Callable]:
        problem, truth = build()
        problem.label_level = key
        return problem, partial(scoring.classes, problem, truth)

    for name, kind, build in all_splits(slices, key):
        yield Split(name, partial(make, build), kind)


def domains(slices: Slices, dataset: str) -> Iterator[Split]:
    """Yield a split per slice for finding its regions without labels."""

    def make(adata: AnnData) -> tuple[Problem, Callable]:
        truth = labels_of(adata, "region")
        known = np.array([value is not None for value in truth])
        names = sorted(set(truth[known]))
        problem = Problem("vectors", [], [without_labels(adata)], names, [known])
        return problem, partial(scoring.vectors, problem, [truth])

    for name, adata in slices.items():
        yield Split(name, partial(make, adata))


# Two slices, each the reference of the other, and micrometres per unit of position: a field of view
# of seqFISH is 1.06 units, or 2048 pixels of 0.103 um.
_PAIRS = {
    "merfish": ("animal1_bregma-0.09", "animal7_bregma-0.09", 1.0),
    "seqfish": ("embryo2_z2", "embryo2_z5", 200.0),
    "toy": ("slice1", "slice2", 1.0),
}
_SIDES, _DEPTH, _FACTOR = (55, 100), 0.3, 0.5
_ANGLE = 0.4  # rotation of the grid in radians, so that it is not aligned with an axis


def proportions(slices: Slices, dataset: str) -> Iterator[Split]:
    """Yield splits for estimating the cell types of pseudospots from cells of another slice.

    For ``other platform``, each gene gets a lognormal factor (0.5), and 30 % of the counts are
    kept.
    """
    *pair, unit = _PAIRS[dataset]

    def make(names: Sequence[str], side: float, other: bool) -> tuple[Problem, Callable]:
        source, target = (with_labels(slices[n], labels_of(slices[n], "cell_type")) for n in names)
        test, truth = spots(target, side / unit, _ANGLE)
        if other:
            random = np.random.default_rng(0)
            factor = _DEPTH * random.lognormal(0, _FACTOR, test.n_vars)
            test.X = sp.csr_matrix(random.poisson(factor * test.X.toarray()).astype(np.float32))
        types = sorted(source.obs[LABEL].unique())
        problem = Problem("shares", [source], [test], types, spot_side=side / unit)
        return problem, partial(scoring.shares, problem, truth)

    for names in (pair, pair[::-1]):
        for side in _SIDES:
            for other in (False, True):
                kind = f"{side} um" + ", other platform" * other
                name = f"{names[0]} to {names[1]}, {kind}"
                yield Split(name, partial(make, names, side, other), kind)


_IMPUTED = {
    "starmap": None,
    "seqfish": ("embryo2_z2", "embryo2_z5"),
    "cosmx": ("slide1_fov1", "slide1_fov6"),
    "toy": ("slice1", "slice2"),
}
_GENE_FOLDS = 5


def genes(slices: Slices, dataset: str) -> Iterator[Split]:
    """Yield splits for imputing a fifth of the genes from another slice or half of the slice."""

    def sides() -> tuple[AnnData, AnnData]:
        if names := _IMPUTED[dataset]:
            return slices[names[0]], slices[names[1]]
        (whole,) = slices.values()
        pos = whole.obsm["spatial"] - whole.obsm["spatial"].mean(axis=0)
        across = pos @ np.linalg.svd(pos, full_matrices=False)[2][1]  # along the short axis
        left = across < np.median(across)
        return whole[left], whole[~left]

    def make(fold: int) -> tuple[Problem, Callable]:
        source, target = sides()
        order = np.random.default_rng(0).permutation(target.n_vars)
        held_out = np.sort(np.array_split(order, _GENE_FOLDS)[fold])
        shared = np.setdiff1d(order, held_out)
        truth = scoring.logs(target.X, np.arange(target.n_vars))[:, held_out]
        reference = with_labels(source, labels_of(source, "cell_type"))
        names = [str(name) for name in target.var_names[held_out]]
        problem = Problem("values", [reference], [without_labels(target[:, shared])], names)
        return problem, partial(scoring.values, problem, truth)

    for fold in range(_GENE_FOLDS):
        yield Split(f"genes {fold}", partial(make, fold), "held-out genes")


register_task(
    "regions",
    "classes",
    ("toy", "dlpfc", "her2st", "osmfish", "starmap"),
    partial(labels, key="region"),
)
register_task(
    "cell_types",
    "classes",
    ("toy", "osmfish", "starmap", "merfish", "seqfish"),
    partial(labels, key="cell_type"),
)
register_task("domains", "vectors", ("toy", "dlpfc", "osmfish", "starmap"), domains)
register_task("deconvolution", "shares", ("toy", "merfish", "seqfish"), proportions)
register_task("imputation", "values", ("toy", "starmap", "seqfish", "cosmx"), genes)
register_task("transfer", "transfer", ("layers", "brain_cells"), transfer)
register_task(
    "molecules",
    "molecules",
    (
        *("toy", "dlpfc", "osmfish", "starmap", "merfish", "seqfish", "cosmx"),
        *("mop", "verafish", "xenium", "slideseq", "olfactory"),
    ),
    held_out_molecules,
)
register_task("superpixels", "graph_classes", ("digits", "mnist"), planar.superpixels)
register_task("particles", "displacements", ("particles",), planar.displacements)
register_task("axes", "axes", ("layers",), axes.axes)
register_task("chirality", "graph_classes", ("toy", "dlpfc", "merfish"), chirality.chirality)
