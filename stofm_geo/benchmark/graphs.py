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
_CELLS_PER_SUBSLICE = 1000  # maximum number of core cells
_ROTATIONS = (0.1, 0.5, 0.9, 1.3)  # of the grids of training spots, in radians


@dataclass
class Graphs:
    """Training and test slices of a problem as sub-slices.

    Attributes:
        train: Sub-slices of the training slices, with ``x`` ``[N, F]``, ``pos`` in cell spacings,
            ``edge_index``, ``core_mask``, and ``row``, the row in ``target`` of each core cell.
        target: Targets of all training cells: classes ``[n]`` (-1 if unknown) or values ``[n, T]``.
        held_out: Mask of the validation cells, ``[n]`` bool.
        test: Sub-slices of each test slice.
        outputs: Number of classes or values.
        mean: Mean of the targets of kind ``"values"``, which are ``(y - mean) / scale``.
        scale: Scale of these targets.
    """

    train: list[Data]
    target: Tensor
    held_out: np.ndarray
    test: list[list[Data]]
    outputs: int
    mean: np.ndarray
    scale: np.ndarray


def graphs(problem: Problem, *, macro: bool = False, halo: int = 2) -> Graphs:
    """Return the sub-slices of a problem.

    Features are 30 principal components, fitted to the training slices only (to the slice itself
    for ``"vectors"``), and standardised within each slice.

    Args:
        problem: Problem of any kind.
        macro: Whether to add virtual nodes (:class:`~stofm_geo.transforms.MacroNodes`).
        halo: Number of hops around the core cells that a sub-slice includes.
    """
    train, targets, mean, scale = training_data(problem)
    pca = PCAFeatures(COMPONENTS).fit(train or problem.test)
    test_graphs = [_graph(adata, pca) for adata in problem.test]
    train_graphs = [_graph(adata, pca) for adata in train]
    if problem.kind == "vectors":
        train, train_graphs = problem.test, test_graphs
        targets = [niche_features(data.x, data.edge_index).numpy() for data in test_graphs]
    cut = partial(_cut, macro=macro, halo=halo)
    train_subslices = [cut(data) for data in train_graphs]
    test_subslices = [cut(data) for data in test_graphs]
    offset = 0
    for subslices, adata in zip(train_subslices, train, strict=True):
        for subslice in subslices:
            subslice.row = subslice.n_id[subslice.core_mask] + offset
        offset += adata.n_obs
    target = torch.from_numpy(np.concatenate(targets))
    codes = target.numpy() if target.dim() == 1 else np.zeros(len(target), dtype=int)
    held_out = folds(np.concatenate(_groups(problem, train)), codes, 4, seed=0)[0]
    all_subslices = [subslice for subslices in train_subslices for subslice in subslices]
    outputs = len(problem.names) if target.dim() == 1 else target.shape[1]
    return Graphs(all_subslices, target, held_out, test_subslices, outputs, mean, scale)


def training_data(
    problem: Problem,
) -> tuple[list[AnnData], list[np.ndarray], np.ndarray, np.ndarray]:
    """Return training slices, the targets of their cells, and the mean and scale of the targets."""
    zero, one = np.zeros(1), np.ones(1)
    if problem.kind == "classes":
        codes = [codes_of(adata.obs[LABEL].to_numpy(), problem.names) for adata in problem.train]
        return problem.train, codes, zero, one
    if problem.kind == "shares":
        (cells,) = problem.train
        spot_slices = [spots(cells, problem.spot_side, rotation) for rotation in _ROTATIONS]
        proportions = [truth[problem.names].to_numpy(np.float32) for _, truth in spot_slices]
        return [adata for adata, _ in spot_slices], proportions, zero, one
    if problem.kind == "values":
        (cells,), names = problem.train, target_columns(problem)
        shared = cells.var_names.get_indexer(problem.test[0].var_names)
        y = logs(cells.X, shared)[:, names]
        mean, scale = y.mean(axis=0), y.std(axis=0) + 1e-3
        return [cells[:, shared].copy()], [((y - mean) / scale).astype(np.float32)], mean, scale
    return [], [], zero, one


def target_columns(problem: Problem) -> np.ndarray:
    """Return the columns of the target genes in the training slice."""
    return problem.train[0].var_names.get_indexer(problem.names)


def _groups(problem: Problem, train: list[AnnData]) -> list[np.ndarray]:
    """Return the group of each training cell, a block or slice that is held out as a whole."""
    if problem.kind != "shares":
        return tissue_groups([adata.obsm["spatial"] for adata in train])
    # Spots of differently rotated grids overlap, so blocks are those of the cells below.
    (cells,) = problem.train
    (group,) = tissue_groups([cells.obsm["spatial"]])
    tree = cKDTree(cells.obsm["spatial"])
    return [group[tree.query(adata.obsm["spatial"])[1]] for adata in train]


def _graph(adata: AnnData, pca: PCAFeatures) -> Data:
    x = pca.transform(adata)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    pos = torch.from_numpy(np.asarray(adata.obsm["spatial"], dtype=np.float64))
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
