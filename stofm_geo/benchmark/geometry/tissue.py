"""Pieces of tissue as graphs in the plane, from two slices with other genes."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from torch_geometric.data import Data
from torch_geometric.transforms import Compose

from stofm_geo.benchmark.baselines import neighbour_averages, standardised
from stofm_geo.benchmark.graphs import COMPONENTS
from stofm_geo.benchmark.problems import NEIGHBOURS
from stofm_geo.genes import PCAFeatures
from stofm_geo.transforms import NormalizePositions, SpatialKNN, SubSlices


def shared_features(slices: list[AnnData]) -> list[np.ndarray]:
    """Return features of cells that slices with different genes have in common.

    Args:
        slices: Slices with the same names of genes, where they have the same genes.

    Returns:
        For each slice, principal components of the shared genes, which are fitted to all slices,
        beside their means over 6 and 18 neighbours, standardised within the slice, ``[n, 3 F]``.
    """
    genes = slices[0].var_names
    for adata in slices[1:]:
        genes = genes.intersection(adata.var_names)
    slices = [adata[:, genes].copy() for adata in slices]
    pca = PCAFeatures(min(COMPONENTS, len(genes))).fit(slices)
    return [
        standardised(neighbour_averages(pca.transform(adata), adata.obsm["spatial"]))
        for adata in slices
    ]


def pieces(pos: np.ndarray, x: np.ndarray, max_cells: int, halo: int) -> list[Data]:
    """Cut a slice into pieces.

    Args:
        pos: Positions of the cells, ``[n, 2]``.
        x: Features of the cells, ``[n, F]``.
        max_cells: Largest number of core cells of a piece.
        halo: Number of hops around the core cells that a piece includes.

    Returns:
        Graphs of the nearest neighbours with ``x``, ``pos`` in cell spacings, ``edge_index``,
        ``core_mask``, and ``n_id``, the row of each cell.
    """
    data = Data(x=torch.from_numpy(x).float(), pos=torch.from_numpy(pos).double())
    data = Compose([NormalizePositions(), SpatialKNN(NEIGHBOURS)])(data)
    subslices = SubSlices(max_cells, halo=halo)(data)
    kept = ("x", "pos", "edge_index", "core_mask", "n_id")
    return [
        Data(**{key: subslice[key] for key in kept}).apply(lambda pos: pos.float(), "pos")
        for subslice in subslices
    ]


def positions(adata: AnnData) -> np.ndarray:
    """Return the positions of the cells of a slice, ``[n, 2]``."""
    return np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2]


def rotated_positions(pos: np.ndarray, seed: int) -> np.ndarray:
    """Rotate positions ``[n, 2]`` by a random angle."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return pos @ np.array([[cos, sin], [-sin, cos]])
