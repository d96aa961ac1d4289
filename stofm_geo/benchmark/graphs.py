"""Sub-slices of a problem for graph layers: features, positions, edges and targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from anndata import AnnData
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo._keys import NodeType
from stofm_geo.benchmark.problems import LABEL, NEIGHBOURS, Problem
from stofm_geo.benchmark.scoring import logs
from stofm_geo.benchmark.spots import spots
from stofm_geo.genes import PCAFeatures
from stofm_geo.nn import niche_features
from stofm_geo.tasks.labels import codes_of
from stofm_geo.tasks.splits import folds, tissue_groups
from stofm_geo.transforms import (
    JoinMacroNodes,
    MacroNodes,
    NormalizePositions,
    SpatialKNN,
    SubSlices,
)

COMPONENTS = 30
_CELLS_PER_SUBSLICE = 1000  # core cells of a sub-slice, at most
_TURNS = (0.1, 0.5, 0.9, 1.3)  # of the squares that training spots are cut by


@dataclass
class Graphs:
    """Slices as sub-slices.

    Attributes:
        train: Sub-slices of the training slices: ``x`` ``[N, F]``, ``pos`` in cell spacings,
            ``edge_index``, ``core_mask``, and ``row``, that of ``target``, of each core cell.
        target: Of all training cells: codes ``[n]`` (-1 without), or numbers ``[n, T]``.
        held_out: Of them, those to choose by, ``[n]`` bool.
        test: Sub-slices of each test slice.
        outputs: Classes, or numbers a cell.
        mean, scale: Of ``"values"``: numbers are given as ``(y - mean) / scale``.
    """

    train: list[Data]
    target: Tensor
    held_out: np.ndarray
    test: list[list[Data]]
    outputs: int
    mean: np.ndarray
    scale: np.ndarray


def graphs(problem: Problem, *, macro: bool = False, halo: int = 2) -> Graphs:
    """Make them.

    Features are 30 principal components, learned from the training slices alone (of ``"vectors"``,
    the slice itself), standardised within each slice.

    Args:
        problem: Any.
        macro: Whether sub-slices have virtual nodes (:class:`~stofm_geo.transforms.MacroNodes`).
        halo: Steps around a sub-slice's own cells that it also has.
    """
    train, targets, mean, scale = training(problem)
    pca = PCAFeatures(COMPONENTS).fit(train or problem.test)
    of_test = [_graph(part, pca) for part in problem.test]
    of_train = [_graph(part, pca) for part in train]
    if problem.kind == "vectors":
        train, of_train = problem.test, of_test
        targets = [niche_features(data.x, data.edge_index).numpy() for data in of_test]
    cut = partial(_cut, macro=macro, halo=halo)
    of_train, of_test = [cut(data) for data in of_train], [cut(data) for data in of_test]
    first = 0
    for subslices, part in zip(of_train, train, strict=True):
        for subslice in subslices:
            subslice.row = subslice.n_id[subslice.core_mask] + first
        first += part.n_obs
    target = torch.from_numpy(np.concatenate(targets))
    codes = target.numpy() if target.dim() == 1 else np.zeros(len(target), dtype=int)
    held_out = folds(np.concatenate(_groups(problem, train)), codes, 4, seed=0)[0]
    every = [subslice for subslices in of_train for subslice in subslices]
    outputs = len(problem.names) if target.dim() == 1 else target.shape[1]
    return Graphs(every, target, held_out, of_test, outputs, mean, scale)


def training(problem: Problem) -> tuple[list[AnnData], list[np.ndarray], np.ndarray, np.ndarray]:
    """Training slices and what is asked of each of their cells; how numbers were standardised."""
    zero, one = np.zeros(1), np.ones(1)
    if problem.kind == "classes":
        codes = [codes_of(part.obs[LABEL].to_numpy(), problem.names) for part in problem.train]
        return problem.train, codes, zero, one
    if problem.kind == "shares":
        (cells,) = problem.train
        made = [spots(cells, problem.spot_side, turn) for turn in _TURNS]
        share = [truth[problem.names].to_numpy(np.float32) for _, truth in made]
        return [part for part, _ in made], share, zero, one
    if problem.kind == "values":
        (cells,), names = problem.train, asked_genes(problem)
        shared = cells.var_names.get_indexer(problem.test[0].var_names)
        y = logs(cells.X, shared)[:, names]
        mean, scale = y.mean(axis=0), y.std(axis=0) + 1e-3
        return [cells[:, shared].copy()], [((y - mean) / scale).astype(np.float32)], mean, scale
    return [], [], zero, one


def asked_genes(problem: Problem) -> np.ndarray:
    """Columns of the genes that are asked for in the training slice."""
    return problem.train[0].var_names.get_indexer(problem.names)


def _groups(problem: Problem, train: list[AnnData]) -> list[np.ndarray]:
    """Blocks or slices that are held out as one, of each training cell."""
    if problem.kind != "shares":
        return tissue_groups([part.obsm["spatial"] for part in train])
    # Spots of differently turned squares overlap: blocks are of the cells below.
    (cells,) = problem.train
    (group,) = tissue_groups([cells.obsm["spatial"]])
    tree = cKDTree(cells.obsm["spatial"])
    return [group[tree.query(part.obsm["spatial"])[1]] for part in train]


def _graph(part: AnnData, pca: PCAFeatures) -> Data:
    x = pca.transform(part)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    pos = torch.from_numpy(np.asarray(part.obsm["spatial"], dtype=np.float64))
    data = Data(x=torch.from_numpy(x), pos=pos)
    return Compose([NormalizePositions(), SpatialKNN(NEIGHBOURS)])(data)


def _cut(data: Data, macro: bool, halo: int) -> list[Data]:
    if macro:
        data = MacroNodes(join=False)(data)
    subslices = SubSlices(_CELLS_PER_SUBSLICE, halo=halo)(data)
    if macro:
        subslices = [JoinMacroNodes()(subslice) for subslice in subslices]
    for subslice in subslices:
        subslice.pos = subslice.pos.float()
        if macro:
            subslice.pos[subslice.node_type == NodeType.CLS] = torch.nan
    return subslices
