"""The five tasks: which problems each data set poses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from stofm_geo._registry import Registry
from stofm_geo.benchmark import scoring
from stofm_geo.benchmark.datasets import Slices
from stofm_geo.benchmark.problems import LABEL, LOAD, Kind, Problem, Split
from stofm_geo.benchmark.splits import bare, each, labelled, labels_of
from stofm_geo.benchmark.spots import spots


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        kind: Of its problems.
        datasets: Names of those it is asked of.
        cases: From slices and the name of their data set to cases.
        version: Raised whenever problems change; results of different versions do not compare.
    """

    kind: Kind
    datasets: tuple[str, ...]
    cases: Callable[[Slices, str], Iterator[Split]]
    version: int = 1


TASKS: Registry[Task] = Registry("task", LOAD)


def register_task(
    name: str,
    kind: Kind,
    datasets: Sequence[str],
    cases: Callable[[Slices, str], Iterator[Split]],
    version: int = 1,
) -> None:
    """Make a task known to the suite; see :class:`Task`.

    Raises:
        TypeError, ValueError: ``name`` is unfit or taken, or there is no such ``kind``.
    """
    if kind not in scoring.MAIN:
        raise ValueError(f"kind must be one of {', '.join(scoring.MAIN)}; found {kind!r}")
    TASKS.add(name, Task(kind, tuple(datasets), cases, version))


def labels(slices: Slices, dataset: str, key: str) -> Iterator[Split]:
    """Labels ``obs[key]`` of what is held out."""

    def make(build: Callable) -> tuple[Problem, Callable]:
        problem, truth = build()
        problem.label_level = key
        return problem, partial(scoring.classes, problem, truth)

    for name, kind, build in each(slices, key):
        yield Split(name, partial(make, build), kind)


def domains(slices: Slices, dataset: str) -> Iterator[Split]:
    """Regions of each slice, without labels."""

    def make(part: AnnData) -> tuple[Problem, Callable]:
        truth = labels_of(part, "region")
        known = np.array([one is not None for one in truth])
        names = sorted(set(truth[known]))
        problem = Problem("vectors", [], [bare(part)], names, [known])
        return problem, partial(scoring.vectors, problem, [truth])

    for name, part in slices.items():
        yield Split(name, partial(make, part))


# Slices in turn reference and target, and the micrometres of a unit: a field of view of seqFISH,
# 1.06 units, has 2048 pixels of 0.103 um.
_PAIRS = {
    "merfish": ("animal1_bregma-0.09", "animal7_bregma-0.09", 1.0),
    "seqfish": ("embryo2_z2", "embryo2_z5", 200.0),
    "toy": ("slice1", "slice2", 1.0),
}
_SIDES, _DEPTH, _FACTOR = (55, 100), 0.3, 0.5
_TURN = 0.4  # radians: the squares lie along no axis


def proportions(slices: Slices, dataset: str) -> Iterator[Split]:
    """Cell types of pseudo-spots, from another slice's cells.

    ``other platform`` draws a factor for each gene (lognormal, 0.5) and keeps 30 % of the counts.
    """
    *pair, unit = _PAIRS[dataset]

    def make(names: Sequence[str], side: float, other: bool) -> tuple[Problem, Callable]:
        source, target = (labelled(slices[n], labels_of(slices[n], "cell_type")) for n in names)
        test, truth = spots(target, side / unit, _TURN)
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
    """Impute a fifth of the genes from another slice, or for STARmap from its other half."""

    def sides() -> tuple[AnnData, AnnData]:
        if names := _IMPUTED[dataset]:
            return slices[names[0]], slices[names[1]]
        (whole,) = slices.values()
        pos = whole.obsm["spatial"] - whole.obsm["spatial"].mean(axis=0)
        across = pos @ np.linalg.svd(pos, full_matrices=False)[2][1]  # the short side
        left = across < np.median(across)
        return whole[left], whole[~left]

    def make(fold: int) -> tuple[Problem, Callable]:
        source, target = sides()
        every = np.random.default_rng(0).permutation(target.n_vars)
        held = np.sort(np.array_split(every, _GENE_FOLDS)[fold])
        shared = np.setdiff1d(every, held)
        truth = scoring.logs(target.X, np.arange(target.n_vars))[:, held]
        reference = labelled(source, labels_of(source, "cell_type"))
        names = [str(name) for name in target.var_names[held]]
        problem = Problem("values", [reference], [bare(target[:, shared])], names)
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
