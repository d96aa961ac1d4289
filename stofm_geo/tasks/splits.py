"""Splits by whole slices or contiguous blocks of tissue, never by single cells.

Neighbouring cells are similar, so that a random split of cells would leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Data

from stofm_geo.transforms import SubSlices

_BLOCK, _LEAST = 200, 8  # cells of a block, at most; blocks of all slices, at least
_ENOUGH = 4  # slices, of which some can be spared whole


def tissue_groups(positions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the group of each cell; a group is held out as a whole.

    Groups are the slices, if there are four or more, else contiguous blocks of at most 200 cells.

    Args:
        positions: Of the cells of each slice, ``[n, 2]``.

    Returns:
        Numbers from 0, those of different slices differing, ``[n]`` a slice.
    """
    if len(positions) >= _ENOUGH:
        return [np.full(len(pos), number) for number, pos in enumerate(positions)]
    most = min(_BLOCK, max(sum(map(len, positions)) // _LEAST, 1))
    groups, first = [], 0
    for pos in positions:
        group = contiguous_blocks(pos, most)
        groups.append(group + first)
        first += int(group.max()) + 1
    return groups


def contiguous_blocks(positions: np.ndarray, most: int = _BLOCK) -> np.ndarray:
    """Return the block of each cell of a slice, ``[n]``.

    Args:
        positions: ``[n, 2]``.
        most: Cells of a block, at most (default 200).
    """
    place = torch.from_numpy(np.asarray(positions, dtype=np.float64))
    nothing = torch.empty(2, 0, dtype=torch.long)
    graph = Data(pos=place, edge_index=nothing, num_nodes=len(place))
    block = np.empty(len(place), dtype=np.int64)
    for number, subslice in enumerate(SubSlices(most, halo=0)(graph)):
        block[subslice.n_id.numpy()] = number
    return block


def folds(groups: np.ndarray, codes: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Return the cross-validation folds, with groups kept whole.

    Groups are drawn at random and dealt out so that the folds are about equally large.

    Args:
        groups: Of each cell, ``[n]``.
        codes: Its class, -1 without one; groups without labels are in no fold, ``[n]``.
        count: Folds; fewer where there are fewer groups.
        seed: Random seed of the assignment.

    Returns:
        A mask ``[n]`` a fold.

    Raises:
        ValueError: All labels are in one group.
    """
    names, size = np.unique(groups[codes >= 0], return_counts=True)
    if len(names) < 2:
        raise ValueError(
            "all labelled cells lie in one block of tissue, of which no part can be held out; "
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
