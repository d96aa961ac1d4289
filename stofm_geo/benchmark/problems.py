"""What a model is asked: slices to learn from, slices to answer for, and how answers are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from anndata import AnnData
from torch_geometric.utils import k_hop_subgraph

from stofm_geo.transforms import SpatialKNN

Kind = Literal["classes", "vectors", "shares", "values"]
# How a user's own model, task or data set is registered, for messages.
LOAD = "one of your own is there if load (--load) names the file that registers it"
LABEL, GROUP = "label", "group"  # obs of slices in a problem
NEIGHBOURS, HOPS = 12, 3  # of graphs that models of the suite are trained on, and their layers


@dataclass
class Problem:
    """One question of a benchmark, the same for all models.

    Answers are arrays, one for each of ``test``, rows as there, of all its cells:

    - ``kind="classes"``: labels ``[n]``. ``train`` has them in ``obs["label"]``, NaN where a cell
      is not shown.
    - ``"vectors"``: embeddings ``[n, D]``; nothing to learn from but ``test`` itself.
    - ``"shares"``: ``[n, K]``, of the cell types ``names`` in spots. ``train`` are slices of single
      cells with ``obs["label"]``.
    - ``"values"``: ``[n, G]``, log-normalised counts of the genes ``names``, which ``train`` has
      and ``test`` has not.

    Attributes:
        kind: See above.
        train: Slices, counts in ``X``, positions in ``obsm["spatial"]``, ``obs["group"]`` the
            patient, animal, block, ... that a cell is of.
        test: Slices, alike; without labels.
        names: Classes, cell types or genes; of ``"vectors"``, there are as many as domains.
        scored_mask: Cells of ``test`` that are scored, ``[n]`` bool each.
        leak_free: Whether no group is on both sides, and no training cell near a test cell.
        label_level: Of ``"classes"``: whether a label is of the tissue or of the single cell.
        spot_side: Of ``"shares"``: the side of a square spot, in units of the positions.
    """

    kind: Kind
    train: list[AnnData]
    test: list[AnnData]
    names: list[str]
    scored_mask: list[np.ndarray] = field(default_factory=list)
    leak_free: bool = True
    label_level: Literal["region", "cell_type"] = "region"
    spot_side: float = 0.0

    def __post_init__(self) -> None:
        if not self.scored_mask:
            self.scored_mask = [np.ones(one.n_obs, dtype=bool) for one in self.test]

    def digest(self) -> str:
        """Return a hash of cells, genes, training labels and scored cells."""
        found = hashlib.sha256(repr((self.kind, self.names)).encode())
        for part in (*self.train, *self.test):
            for names in (part.obs_names, part.var_names, part.obs.get(LABEL, [])):
                found.update("\n".join(map(str, names)).encode() + b"\0")
        for asked in self.scored_mask:
            found.update(np.packbits(asked).tobytes())
        return found.hexdigest()[:16]


@dataclass
class Split:
    """A problem, made when it is asked for, and what tells how good an answer is.

    Attributes:
        name: Of the split: ``"patient A1"``, ``"blocks 0"``, ``"random"``, ...
        make: Makes the problem and the function that scores its answers.
        held_out: What kind of thing is held out: ``"slices"`` (default), ``"blocks"``, ...; splits
            of one kind are a column of the tables, their mean.
    """

    name: str
    make: Callable[[], tuple[Problem, Callable[[list[np.ndarray]], dict[str, float]]]]
    held_out: str = "slices"


def leaks(problem: Problem, hops: int = HOPS) -> int:
    """Test cells that have a training cell within ``hops`` edges of the graph that models see."""
    shown = {
        name
        for part in problem.train
        for name in part.obs_names[part.obs[LABEL].notna().to_numpy()]
    }
    count = 0
    for part, asked in zip(problem.test, problem.scored_mask, strict=True):
        train = np.flatnonzero(part.obs_names.isin(shown) & ~asked)
        edges = SpatialKNN(NEIGHBOURS).search(torch.from_numpy(part.obsm["spatial"]).double())
        near = k_hop_subgraph(
            torch.from_numpy(train), hops, edges, num_nodes=part.n_obs, flow="target_to_source"
        )[0]
        count += int(asked[near.numpy()].sum())
        count += int((part.obs_names.isin(shown) & asked).sum())  # shown and asked at once
    return count


def check_leak_free(problem: Problem) -> None:
    """Whether models see nothing of what is scored; done before each cell of a run.

    Raises:
        ValueError: Test slices have labels, slices have no groups; or, of a problem of classes that
            says it keeps training and test apart, a group is on both sides, or a training cell is
            near a test cell.
    """
    for part in problem.test:
        if LABEL in part.obs:
            raise ValueError(f"a slice of test has obs[{LABEL!r}], which models see; leave it out")
    if problem.kind != "classes":
        return
    for part in (*problem.train, *problem.test):
        if GROUP not in part.obs:
            raise ValueError(f"a slice has no obs[{GROUP!r}]: the patient, block, ... of each cell")
    if not problem.leak_free:
        return
    train = {g for part in problem.train for g in part.obs.loc[part.obs[LABEL].notna(), GROUP]}
    test = {
        g
        for part, asked in zip(problem.test, problem.scored_mask, strict=True)
        for g in part.obs.loc[asked, GROUP]
    }
    if both := sorted(map(str, train & test)):
        raise ValueError(
            f"the split leaks: {len(both)} groups are in training and in test ({both[0]}, ...); "
            "hold out whole groups, or set leak_free=False"
        )
    if near := leaks(problem):
        raise ValueError(
            f"the split leaks: {near} test cells have a training cell within {HOPS} edges; "
            "give the test cells as slices of their own, or set leak_free=False"
        )
