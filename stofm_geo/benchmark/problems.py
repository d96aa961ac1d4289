"""Problems of the benchmark: training slices, test slices and the cells that are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from anndata import AnnData
from torch_geometric.utils import k_hop_subgraph

from stofm_geo.benchmark.geometry.problems import GraphKind, GraphProblem, check_test_graphs
from stofm_geo.transforms import SpatialKNN

TissueKind = Literal["classes", "vectors", "shares", "values", "molecules", "transfer"]
Kind = TissueKind | GraphKind
# Hint for messages: how to register a model, task or data set.
LOAD = "to use your own, name the file that registers it with load (--load)"
LABEL, GROUP = "label", "group"  # columns of obs of the slices in a problem
_MOST_SHOWN = 0.95  # of the molecules, where some are held out
NEIGHBOURS, HOPS = 12, 3  # of the graphs and networks of the suite


@dataclass
class Problem:
    """Prediction problem of the benchmark, the same for all models.

    Predictions are a list of arrays, one per slice of ``test``, with one row per cell:

    - ``kind="classes"``: labels ``[n]``. ``train`` has labels in ``obs["label"]``, NaN for cells
      whose label is hidden.
    - ``"vectors"``: embeddings ``[n, D]``, from ``test`` only.
    - ``"shares"``: proportions ``[n, K]`` of the cell types ``names`` in spots. ``train`` are
      slices of single cells with ``obs["label"]``.
    - ``"values"``: log-normalised counts ``[n, G]`` of the genes ``names``, which ``train`` has
      and ``test`` lacks.
    - ``"transfer"``: as ``"classes"``, but training and test slices are of different studies, with
      different genes under human Ensembl ids.
    - ``"molecules"``: expected fractions ``[n, G]`` of the genes ``names`` in the molecules of each
      cell of ``test`` that were held out, from ``test`` only.

    Attributes:
        kind: Kind of the predictions.
        train: Training slices with counts in ``X``, positions in ``obsm["spatial"]``, and in
            ``obs["group"]`` the patient, animal, block, ... of each cell.
        test: Test slices in the same form, without labels.
        names: Classes, cell types or genes; for ``"vectors"``, the names of the true domains.
        scored_mask: Mask of the scored cells of each test slice, ``[n]`` bool each.
        leak_free: Whether training and test groups are disjoint, and no training cell is within
            :data:`HOPS` edges of a test cell.
        label_level: For ``"classes"`` and ``"transfer"``, whether labels describe the tissue or the
            single cell.
        spot_side: For ``"shares"``, side of a square spot, in units of the positions.
        molecules: For ``"molecules"``, number of molecules of each test slice, those that are held
            out included.

    Examples:
        >>> from stofm_geo.benchmark import Problem
        >>> from stofm_geo.datasets import toy_tissue
        >>> problem = Problem("vectors", [], [toy_tissue(200, 30, seed=0)], ["L1", "L2"])
        >>> int(problem.scored_mask[0].sum()), len(problem.digest())
        (200, 16)
    """

    kind: TissueKind
    train: list[AnnData]
    test: list[AnnData]
    names: list[str]
    scored_mask: list[np.ndarray] = field(default_factory=list)
    leak_free: bool = True
    label_level: Literal["region", "cell_type"] = "region"
    spot_side: float = 0.0
    molecules: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.scored_mask:
            self.scored_mask = [np.ones(adata.n_obs, dtype=bool) for adata in self.test]

    def digest(self) -> str:
        """Return a hash of the cells, genes, training labels and scored cells."""
        digest = hashlib.sha256(repr((self.kind, self.names)).encode())
        for adata in (*self.train, *self.test):
            for names in (adata.obs_names, adata.var_names, adata.obs.get(LABEL, [])):
                digest.update("\n".join(map(str, names)).encode() + b"\0")
        for mask in self.scored_mask:
            digest.update(np.packbits(mask).tobytes())
        return digest.hexdigest()[:16]


@dataclass
class Split:
    """Split of a data set, from which a problem and its scoring function are made.

    Attributes:
        name: Name of the split: ``"patient A1"``, ``"blocks 0"``, ``"random"``, ...
        make: Function that returns the problem and the function that scores its predictions.
        held_out: Kind of held-out units: ``"slices"`` (default), ``"blocks"``, ...; the mean over
            splits of one kind is a column of the tables.

    Examples:
        >>> from stofm_geo.benchmark import DATASETS, TASKS
        >>> splits = TASKS["domains"].splits(DATASETS["toy"].read(None), "toy")
        >>> split = next(splits)
        >>> split.name, split.held_out
        ('slice1', 'slices')
        >>> problem, score = split.make()
        >>> problem.kind
        'vectors'
    """

    name: str
    make: Callable[
        [], tuple[Problem | GraphProblem, Callable[[list[np.ndarray]], dict[str, float]]]
    ]
    held_out: str = "slices"


def leaks(problem: Problem, hops: int = HOPS) -> int:
    """Count the scored cells with a training cell within ``hops`` edges of the neighbour graph.

    Training cells are those of ``problem.train`` that have a label. They are found in the test
    slices by their names, and are near only within one slice. A cell that is both is counted, too.

    Args:
        problem: Problem with ``obs["label"]`` in its training slices.
        hops: Number of edges of the graph of 12 nearest neighbours (default 3).

    Examples:
        >>> from stofm_geo.benchmark import Problem, leaks
        >>> from stofm_geo.datasets import toy_tissue
        >>> adata = toy_tissue(200, 30, seed=0)
        >>> adata.obs["label"] = adata.obs["region"]
        >>> train, test = adata[:100], adata[100:]
        >>> leaks(Problem("classes", [train], [test], ["L1"]))
        0
        >>> scored = ~adata.obs_names.isin(train.obs_names)  # in one slice with the training cells
        >>> leaks(Problem("classes", [train], [adata], ["L1"], [scored])) > 0
        True
    """
    train_names = {
        name
        for adata in problem.train
        for name in adata.obs_names[adata.obs[LABEL].notna().to_numpy()]
    }
    count = 0
    for adata, scored in zip(problem.test, problem.scored_mask, strict=True):
        train_rows = np.flatnonzero(adata.obs_names.isin(train_names) & ~scored)
        edges = SpatialKNN(NEIGHBOURS).search(torch.from_numpy(adata.obsm["spatial"]).double())
        near = k_hop_subgraph(
            torch.from_numpy(train_rows),
            hops,
            edges,
            num_nodes=adata.n_obs,
            flow="target_to_source",
        )[0]
        count += int(scored[near.numpy()].sum())
        count += int((adata.obs_names.isin(train_names) & scored).sum())  # both training and scored
    return count


def check_leak_free(problem: Problem | GraphProblem) -> None:
    """Check that no test label leaks to a model; called before each cell of a run.

    Args:
        problem: Problem of any kind.

    Raises:
        ValueError: Test slices or graphs have labels, or slices have no groups; or a problem of
            kind ``"classes"`` with ``leak_free`` has a group in both training and test, or a
            training cell near a test cell; or a test slice of kind ``"molecules"`` has too many of
            them.

    Examples:
        >>> from stofm_geo.benchmark import Problem, check_leak_free
        >>> from stofm_geo.datasets import toy_tissue
        >>> adata = toy_tissue(200, 30, seed=0)
        >>> adata.obs["label"] = adata.obs["region"]
        >>> check_leak_free(Problem("classes", [], [adata], ["L1"]))
        Traceback (most recent call last):
        ValueError: a test slice has obs['label'], which models see; remove it
    """
    if isinstance(problem, GraphProblem):
        check_test_graphs(problem)
        return
    for adata in problem.test:
        if LABEL in adata.obs:
            raise ValueError(f"a test slice has obs[{LABEL!r}], which models see; remove it")
    for adata, count in zip(problem.test, problem.molecules, strict=False):
        if (found := float(adata.X.sum())) > _MOST_SHOWN * count:
            raise ValueError(
                f"the split leaks: a test slice has {found / count:.0%} of its molecules, so that "
                "few are held out; split them off before the problem is made"
            )
    if problem.kind != "classes":
        return
    for adata in (*problem.train, *problem.test):
        if GROUP not in adata.obs:
            raise ValueError(
                f"a slice has no obs[{GROUP!r}]; set the patient, block, ... of each cell"
            )
    if not problem.leak_free:
        return
    train = {g for adata in problem.train for g in adata.obs.loc[adata.obs[LABEL].notna(), GROUP]}
    test = {
        g
        for adata, scored in zip(problem.test, problem.scored_mask, strict=True)
        for g in adata.obs.loc[scored, GROUP]
    }
    if both := sorted(map(str, train & test)):
        raise ValueError(
            f"the split leaks: {len(both)} groups are in training and in test ({both[0]}, ...); "
            "hold out whole groups, or set leak_free=False"
        )
    if near := leaks(problem):
        raise ValueError(
            f"the split leaks: {near} test cells have a training cell within {HOPS} edges; "
            "put test cells into separate slices, or set leak_free=False"
        )
