"""Neighbour search in the plane. Ties are kept, so that rotating a lattice changes no graph.

SciPy's trees do the search; PyG's own ``knn_graph`` needs a compiled package that PyPI does not
have. Positions on a GPU are searched by torch-cluster, if that is installed.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import Delaunay, cKDTree
from torch import Tensor

try:
    import torch_cluster
except (ImportError, OSError) as error:  # OSError: built for another version of torch
    torch_cluster = None
    _NO_CLUSTER = f"torch-cluster cannot be imported ({error}); pip install 'stofm-geo[ext]'"

# Distances that differ by less than this (relative) are equal: on a lattice, many neighbours are
# equally far, and rounding would otherwise select different ones for every rotation.
TIE = 1e-4
# Heights of a triangle and widths of a slice below this (relative to their length) count as 0.
_FLAT = 1e-6
# Additional neighbours in the first query, for ties; rows with more ties are queried again.
_SPARE = 8
# A larger mean degree indicates a wrong unit or cells without positions, and would fill memory.
_MAX_MEAN_DEGREE = 1000


def gpu_search_unavailable() -> str | None:
    """Return why positions on a GPU are searched on the CPU, or ``None`` if they are not.

    Examples:
        >>> from stofm_geo.transforms import gpu_search_unavailable
        >>> reason = gpu_search_unavailable()
        >>> reason is None or "torch-cluster" in reason
        True
    """
    return _NO_CLUSTER if torch_cluster is None else None


def knn(pos: Tensor, k: int) -> Tensor:
    """Join every point to its ``k`` nearest points, and to all with the distance of the ``k``-th.

    Args:
        pos: Positions ``[n, 2]``.
        k: Number of neighbours, without the point itself; at most ``n - 1``.

    Returns:
        Undirected edges ``[2, E]`` (both directions), sorted by destination.

    Raises:
        ValueError: So many cells share a position that the graph would not fit in memory.
    """
    n = len(pos)
    k = min(k, n - 1)
    if k < 1:
        return torch.empty(2, 0, dtype=torch.long, device=pos.device)
    return _undirected(*_nearest(pos, k), n, pos.device)


def _nearest(pos: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sources and destinations of the edges of :func:`knn`, in one direction."""
    n = len(pos)
    width = min(k + 1 + _SPARE, n)
    if pos.is_cuda and torch_cluster is not None:
        distance, index = _query_cluster(pos, width)
    else:
        distance, index = _query_tree(_numpy(pos), width)
    reach = distance[:, k] * (1 + TIE)
    keep = distance <= reach[:, None]
    dst, column = np.nonzero(keep)
    src = index[dst, column]
    if width < n and (open_rows := np.flatnonzero(keep[:, -1])).size:  # there may be more ties
        more_src, more_dst = _ball(_numpy(pos), reach[open_rows], open_rows)
        src, dst = np.concatenate([src, more_src]), np.concatenate([dst, more_dst])
    return src, dst


def radius(pos: Tensor, r: float) -> Tensor:
    """Join all pairs of points with a distance of at most ``r``; returns as :func:`knn`."""
    if len(pos) == 0:
        return torch.empty(2, 0, dtype=torch.long, device=pos.device)
    reach = np.full(len(pos), r * (1 + TIE))
    src, dst = _ball(_numpy(pos), reach, np.arange(len(pos)))
    return _undirected(src, dst, len(pos), pos.device)


def delaunay(pos: Tensor) -> Tensor:
    """Join the pairs that *every* Delaunay triangulation joins; returns as :func:`knn`.

    On a lattice the triangulation is not unique: both diagonals of a square are valid. Edges
    between triangles of one circumcircle are dropped, which leaves the edges dual to the Voronoi
    diagram. Points at one position are joined to each other and share their neighbours; points on
    one line are joined to the next.
    """
    if len(pos) < 2:
        return torch.empty(2, 0, dtype=torch.long, device=pos.device)
    sites, site_of = np.unique(_numpy(pos), axis=0, return_inverse=True)
    # Centred, since Qhull squares its input, which loses precision far from the origin.
    pairs = _site_pairs(sites - sites.mean(axis=0))
    n, m = len(pos), len(sites)
    members = np.argsort(site_of.ravel(), kind="stable")
    count = np.bincount(site_of.ravel(), minlength=m)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    pairs = np.concatenate([pairs, np.repeat(np.flatnonzero(count > 1)[:, None], 2, axis=1)])
    size = count[pairs[:, 0]] * count[pairs[:, 1]]
    _check_degree(size.sum(), n)
    row = np.repeat(np.arange(len(pairs)), size)
    inner = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
    a, b = pairs[row, 0], pairs[row, 1]
    src, dst = members[start[a] + inner // count[b]], members[start[b] + inner % count[b]]
    return _undirected(src, dst, n, pos.device)


def spacing(pos: Tensor, neighbour: int = 6) -> float:
    """Return the median distance to the 6th nearest distinct position; 0 if there is only one."""
    sites = unique_positions(_numpy(pos))
    if len(sites) < 2:
        return 0.0
    k = min(neighbour, len(sites) - 1)
    distance, _ = cKDTree(sites).query(sites, k=[k + 1], workers=-1)
    return float(np.median(distance))


def unique_positions(pos: np.ndarray) -> np.ndarray:
    """Return the distinct rows ``[m, 2]`` of points ``[n, 2]``, sorted by x, then y."""
    # Ten times as fast as np.unique(axis=0), which sorts compound values.
    pos = pos[np.lexsort((pos[:, 1], pos[:, 0]))]
    return pos[np.append(True, (pos[1:] != pos[:-1]).any(axis=1))[: len(pos)]]


def _numpy(pos: Tensor) -> np.ndarray:
    return pos.detach().cpu().double().numpy()


def _query_tree(pos: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and indices ``[n, width]`` of the nearest points, including the point."""
    tree = cKDTree(pos)
    # Queries in the order of the leaves of the tree use the cache; cells have no spatial order.
    leafwise = tree.indices
    distance, index = np.empty((len(pos), width)), np.empty((len(pos), width), dtype=np.int64)
    distance[leafwise], index[leafwise] = tree.query(pos[leafwise], k=width, workers=-1)
    return distance, index


def _query_cluster(pos: Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    row, col = torch_cluster.knn(pos, pos, width)
    index = col.view(len(pos), width)
    distance = (pos[index] - pos[row].view(len(pos), width, -1)).norm(dim=-1)
    distance, order = distance.sort(dim=1)
    return distance.cpu().numpy(), index.gather(1, order).cpu().numpy()


def _ball(pos: np.ndarray, reach: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all points within ``reach`` of the points ``rows``, as indices (point, row)."""
    tree = cKDTree(pos)
    count = tree.query_ball_point(pos[rows], reach, workers=-1, return_length=True)
    _check_degree(count.sum(), len(pos))
    neighbors = tree.query_ball_point(pos[rows], reach, workers=-1)
    return np.concatenate([np.asarray(f, np.int64) for f in neighbors]), np.repeat(rows, count)


def _check_degree(edges: int, n: int) -> None:
    if edges > _MAX_MEAN_DEGREE * max(n, 1):
        raise ValueError(
            f"the neighbour graph of {n} cells would have {edges} edges "
            f"(more than {_MAX_MEAN_DEGREE} per cell): either many cells share one position "
            "(drop cells without a position), or the radius is not in the units of the positions"
        )


def _site_pairs(sites: np.ndarray) -> np.ndarray:
    """Return index pairs ``[P, 2]`` (one direction) of distinct, centred sites."""
    _, width, axes = np.linalg.svd(sites, full_matrices=False)
    if len(sites) < 3 or width[1] <= _FLAT * width[0]:  # all on one line up to rounding
        order = np.argsort(sites @ axes[0], kind="stable")
        return np.stack([order[:-1], order[1:]], axis=1)
    mesh = Delaunay(sites)
    triangles, adjacent = mesh.simplices, mesh.neighbors
    centre, circumradius, flat = _circumcircles(sites, triangles)
    pairs = triangles[:, [[1, 2], [2, 0], [0, 1]]]  # [T, 3, 2]: the edge opposite to corner c
    # An edge between two triangles of one circumcircle is ambiguous. Flat triangles lie
    # along a straight outline and depend on rounding; they neither add nor remove edges.
    gap = np.linalg.norm(centre[:, None] - centre[adjacent], axis=-1)
    real = (adjacent >= 0) & ~flat[adjacent]
    ambiguous = real & (gap <= TIE * circumradius[:, None])
    return np.unique(np.sort(pairs[~ambiguous & ~flat[:, None]], axis=1), axis=0)


def _circumcircles(
    sites: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre ``[T, 2]`` and radius ``[T]`` of each circumcircle, and whether it is flat."""
    a, b, c = (sites[triangles[:, i]] for i in range(3))
    u, v = b - a, c - a
    uu, vv, ww = (u**2).sum(1), (v**2).sum(1), ((v - u) ** 2).sum(1)
    twice_area = 2 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    flat = np.abs(twice_area) <= _FLAT * np.maximum(np.maximum(uu, vv), ww)
    safe = np.where(flat, 1.0, twice_area)
    x = (v[:, 1] * uu - u[:, 1] * vv) / safe
    y = (u[:, 0] * vv - v[:, 0] * uu) / safe
    offset = np.stack([x, y], axis=1)
    return a + offset, np.linalg.norm(offset, axis=1), flat


def _undirected(src: np.ndarray, dst: np.ndarray, n: int, device: torch.device) -> Tensor:
    """Return both directions, without loops and duplicates, sorted by destination, then source."""
    not_loop = src != dst
    src, dst = src[not_loop].astype(np.int64), dst[not_loop].astype(np.int64)
    code = np.sort(np.concatenate([dst * n + src, src * n + dst]))
    code = code[np.append(True, code[1:] != code[:-1])[: len(code)]]  # faster than np.unique
    return torch.from_numpy(np.stack([code % n, code // n])).to(device)
