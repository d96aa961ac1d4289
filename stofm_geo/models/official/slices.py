"""Slices as the published model sees them: positions, tiles, and which distances it is told.

Sections of "micro scale" of arXiv 2507.11588 and what the published code makes of them, defects
included, since the published weights have learned with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo._validation import check_positive
from stofm_geo.models.official.pairs import known_distance_pairs

UNKNOWN_DISTANCE = 100.0  # stands for every distance that is not told
_AHEAD = 16  # sub-slices that are made at once


def normalized(positions: np.ndarray) -> np.ndarray:
    """Centre positions ``[n, 2]`` on their bounding box and scale its diagonal to 100.

    Raises:
        ValueError: No positions, not ``[n, 2]``, not finite, or all at one place.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or not len(positions):
        raise ValueError(f"positions must be [n, 2] with n > 0; found {list(positions.shape)}")
    if not np.isfinite(positions).all():
        raise ValueError("positions hold NaN or infinite values; drop those cells")
    low, high = positions.min(axis=0), positions.max(axis=0)
    diagonal = ((high - low) ** 2).sum() ** 0.5
    if diagonal == 0:
        raise ValueError(f"all {len(positions)} cells lie at one place; positions are needed")
    return (positions - (low + high) / 2) / diagonal * 100


def tiles(positions: np.ndarray, cells_per_subslice: int = 1000) -> list[np.ndarray]:
    """Return the rows of each sub-slice: squares from the lower left, column by column.

    A square with twice as many cells as asked, or more, is cut by row number.

    Args:
        positions: ``[n, 2]``.
        cells_per_subslice: Up to so many cells, all are one sub-slice (default 1000).
    """
    check_positive("cells_per_subslice", cells_per_subslice, whole=True)
    n, most = len(positions), cells_per_subslice
    if n <= most:
        return [np.arange(n)]
    low = positions.min(axis=0)
    extent = positions.max(axis=0) - low
    side = np.sqrt(extent.prod() / (n // most + 1))
    if side == 0:
        raise ValueError(
            f"{n} cells lie on one line, which has no square tiles; "
            f"take cells_per_subslice of {n} or more"
        )
    columns = int(extent[0] / side) + 1
    # Borders as the published code adds them up, so that rounding takes the same side.
    column = np.searchsorted(low[0] + np.arange(1, columns) * side, positions[:, 0], side="right")
    rows = int(extent[1] // side) + 1
    row = np.searchsorted(low[1] + np.arange(1, rows) * side, positions[:, 1], side="right")
    tile = column * rows + row
    order = np.argsort(tile, kind="stable")
    starts = np.flatnonzero(np.diff(tile[order], prepend=-1))
    found = []
    for members in np.split(order, starts[1:]):
        found += np.array_split(members, max(len(members) // most, 1))
    return found


def subslices(
    positions: np.ndarray,
    features: np.ndarray | Tensor,
    macro_positions: np.ndarray,
    macro_features: np.ndarray | Tensor,
    cells_per_subslice: int = 1000,
) -> list[Data]:
    """Cut a slice as the published model wants it.

    Args:
        positions: Of the cells, ``[n, 2]``, as they are in the file, any unit.
        features: Of the cells, ``[n, F]``.
        macro_positions: Of the virtual cells, ``[m, 2]``, in the normalised units of
            :func:`macro_nodes`.
        macro_features: Of the virtual cells, ``[m, F]``.
        cells_per_subslice: See :func:`tiles`.

    Returns:
        A graph a sub-slice, its nodes CLS, all virtual cells of the slice, and its own cells:
        ``x`` ``[nodes, F]`` float32, ``pos`` ``[nodes, 2]`` float64 (normalised; CLS at 0),
        ``node_type``, ``n_id`` (row in the slice; -1 for CLS and virtual cells), and an edge for
        each pair whose distance the model is told, both directions and loops, sorted by
        destination: ``edge_attr`` ``[E]`` float32. Pairs without an edge count as 100 apart. Told
        are distances to the 49 nearest nodes, to virtual cells, and 0 to CLS and to oneself.

    Raises:
        ValueError: Numbers of rows or columns that do not fit, or unfit positions.
    """
    return list(
        iter_subslices(positions, features, macro_positions, macro_features, cells_per_subslice)
    )


def iter_subslices(
    positions: np.ndarray,
    features: np.ndarray | Tensor,
    macro_positions: np.ndarray,
    macro_features: np.ndarray | Tensor,
    cells_per_subslice: int = 1000,
) -> Iterator[Data]:
    """Yield the graphs of :func:`subslices`, a few at a time, to limit memory."""
    pos = normalized(positions)
    x = _features("features", features, pos)
    macro_pos = np.asarray(macro_positions, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(macro_pos).all():
        raise ValueError("macro_positions hold NaN or infinite values")
    macro_x = _features("macro_features", macro_features, macro_pos)
    if macro_x.size(1) != x.size(1):
        raise ValueError(f"features have {x.size(1)} columns, macro_features {macro_x.size(1)}")
    special = 1 + len(macro_pos)
    first_pos = np.concatenate([np.zeros((1, 2)), macro_pos])
    first_x = torch.cat([x.new_zeros(1, x.size(1)), macro_x])
    first_kind = torch.tensor([NodeType.CLS] + [NodeType.MACRO] * len(macro_pos))

    def pairs(rows: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
        nodes = np.concatenate([first_pos, pos[rows]])
        return nodes, *known_distance_pairs(nodes, special)

    parts = tiles(pos, cells_per_subslice)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(parts), _AHEAD):
            some = parts[start : start + _AHEAD]
            found = list(pool.map(pairs, some))  # before PyTorch starts threads of its own
            for rows, (nodes, edge_index, distance) in zip(some, found, strict=True):
                own = torch.from_numpy(rows)
                yield Data(
                    x=torch.cat([first_x, x[own]]),
                    pos=torch.from_numpy(nodes),
                    node_type=torch.cat([first_kind, torch.full_like(own, NodeType.CELL)]),
                    n_id=torch.cat([torch.full((special,), -1), own]),
                    edge_index=edge_index,
                    edge_attr=distance,
                )


def _features(name: str, values: np.ndarray | Tensor, pos: np.ndarray) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float32)
    if values.dim() != 2 or len(values) != len(pos):
        raise ValueError(
            f"{name} must be [{len(pos)}, F], a row a position; found {list(values.shape)}"
        )
    if not values.isfinite().all():
        raise ValueError(f"{name} hold NaN or infinite values")
    return values
