"""Splits by whole slices or contiguous blocks of tissue, never by single cells.

Neighbouring cells are similar, so that a random split of cells would leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Data

from stofm_geo.transforms import SubSlices

_MAX_BLOCK, _MIN_BLOCKS = 200, 8  # cells per block; blocks in all slices
_MIN_SLICES = 4  # from which on whole slices are held out


def tissue_groups(positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the group of each cell; a group is held out as a whole.

    Groups are the slices, if there are four or more, else contiguous blocks of at most 200 cells.

    Args:
        positions: Positions of the cells of each slice, ``[n, 2]`` each.

    Returns:
        Group indices of the cells of each slice, ``[n]`` each; no group spans two slices.
    """
    if len(positions) >= _MIN_SLICES:
        return [np.full(len(pos), number) for number, pos in enumerate(positions)]
    max_cells = min(_MAX_BLOCK, max(sum(map(len, positions)) // _MIN_BLOCKS, 1))
    groups, first = [], 0
    for pos in positions:
        group = contiguous_blocks(pos, max_cells)
        groups.append(group + first)
        first += int(group.max()) + 1
    return groups


def contiguous_blocks(positions: np.ndarray, max_cells: int = _MAX_BLOCK) -> np.ndarray:
    """Return the block of each cell of a slice, ``[n]``.

    Args:
        positions: Positions of the cells, ``[n, 2]``.
        max_cells: Maximum number of cells per block (default 200).
    """
    pos = torch.from_numpy(np.asarray(positions, dtype=np.float64))
    no_edges = torch.empty(2, 0, dtype=torch.long)
    graph = Data(pos=pos, edge_index=no_edges, num_nodes=len(pos))
    block = np.empty(len(pos), dtype=np.int64)
    for number, subslice in enumerate(SubSlices(max_cells, halo=0)(graph)):
        block[subslice.n_id.numpy()] = number
    return block


def folds(groups: np.ndarray, codes: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Return the cross-validation folds, with groups kept whole.

    Groups are assigned in random order, each to the smallest fold.

    Args:
        groups: Group of each cell, ``[n]``.
        codes: Class of each cell, ``[n]``, -1 where unknown; groups without labels are in no fold.
        count: Number of folds; reduced to the number of groups with labels.
        seed: Random seed of the assignment.

    Returns:
        Mask of each fold, ``[n]`` bool each.

    Raises:
        ValueError: All labelled cells are in one group.
    """
    names, size = np.unique(groups[codes >= 0], return_counts=True)
    if len(names) < 2:
        raise ValueError(
            "all labelled cells lie in one block of tissue, so none can be held out; "
            "label cells of more of the slice, or give more slices"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of, total = {}, np.zeros(min(count, len(names)))
    for i in order:
        smallest = int(total.argmin())
        fold_of[names[i]] = smallest
        total[smallest] += size[i]
    number = np.array([fold_of.get(group, -1) for group in groups])
    return [number == fold for fold in range(len(total))]
