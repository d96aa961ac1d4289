"""Detection of several slices in one AnnData that are not separated by a slice key."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from stofm_geo._keys import Keys
from stofm_geo._names import read_names
from stofm_geo._validation import preview

# Usual names of slice columns, letters and digits only, the most likely first.
_USUAL = (
    "sliceid libraryid slice library section sectionid brainsectionlabel slide slideid puck "
    "capturearea sample sampleid samplename origident dataset datasetid bregma zplane fov fovid "
    "fovname batch replicate region donor donorid patient patientid subject mouse mouseid animal "
    "animalid embryo"
).split()
_MIN_CELLS = 13  # of a slice, on average
# Degree of mixing of slices on top of each other, at least, and of slices side by side, at most.
_MIXED, _SEPARATE = 0.25, 0.1
_DENSER = 1.2  # minimum ratio of nearest distances; 1.4 for two slices of random positions
_SQUARE, _SAMPLE = 3.0, 2000  # side in cell spacings; number of cells in samples
_CLIP = 2**20
_JOINED = "anndata.concat({'A': a, 'B': b}, label='slice_id', index_unique='-')"


def is_usual(column: str) -> bool:
    """Return whether ``column`` is a usual name of a slice key."""
    return _normalized(column) in _USUAL


def resolve_slice_key(
    adata: AnnData,
    positions: np.ndarray,
    spatial_key: str,
    slice_key: str | None,
    *,
    beside: bool = False,
) -> str | None:
    """Return the slice key: the one given, or that of a SpatialData table of several regions.

    Args:
        adata: Cells.
        positions: Positions of the cells, ``[n, 2]``.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs``, or ``None``.
        beside: Also warn of ``slice_id`` and ``library_id`` if slices lie beside each other.

    Warns:
        UserWarning: The key of the table is used; or cells of several slices overlap in what is
            treated as one slice, with advice.
    """
    attrs = adata.uns.get("spatialdata_attrs")
    if slice_key is None and isinstance(attrs, dict):
        key = attrs.get("region_key")
        if isinstance(key, str) and key in adata.obs and (count := len(_names(adata, key))) > 1:
            _warn(
                f"uns['spatialdata_attrs'] names obs[{key!r}], which separates {count} regions; "
                f"each is treated as a slice (slice_key={key!r})"
            )
            return key
    if slice_key is not None and slice_key not in adata.obs:
        return slice_key  # raises an error where it is read
    within = np.zeros(adata.n_obs, dtype=np.int64)
    if slice_key is not None:
        within = pd.factorize(read_names(adata.obs[slice_key]), use_na_sentinel=False)[0]
    if depth := _depth_message(adata, positions, spatial_key, within):
        _warn(depth)
        return slice_key
    candidates = _candidates(adata, slice_key)
    for key in candidates:
        if are_stacked(positions, _codes(adata, key), within):
            _warn(_message(adata, key, spatial_key, slice_key))
            return slice_key
    usual = [key for key in candidates if key in Keys.SLICES]
    if beside and usual and slice_key is None:
        key = usual[0]
        _warn(
            f"obs[{key!r}] separates {len(_names(adata, key))} slices, but all cells are treated "
            f"as one; if they are several, give slice_key={key!r} (--slice-key {key})"
        )
    else:
        _check_unnamed(adata, positions, within)
    return slice_key


def are_stacked(positions: np.ndarray, code: np.ndarray, within: np.ndarray) -> bool:
    """Return whether groups of cells overlap, as slices in one coordinate frame do.

    Overlapping slices are well mixed in space, and denser together than separately. Cell types
    and regions of one tissue may be mixed, but are not denser together.

    Args:
        positions: Positions of the cells, ``[n, 2]``.
        code: Group index of each cell, ``[n]``.
        within: Slice index of each cell, ``[n]``; groups are compared within slices.
    """
    if mixed(positions, code, within) < _MIXED:
        return False
    separate = _nearest(positions, within * (code.max() + 1) + code)
    together = _nearest(positions, within)
    return separate > _DENSER * together


def mixed(positions: np.ndarray, code: np.ndarray, within: np.ndarray) -> float:
    """Return how mixed groups of cells are in space: 0 where separate, about 1 where random.

    This is the probability that two cells of a small square belong to different groups, divided by
    that of two cells of the slice. Arguments are those of :func:`are_stacked`.
    """
    spacing = _spacing(positions[within == np.bincount(within).argmax()])
    if spacing == 0:
        return 0.0
    middle = np.median(positions, axis=0)
    x, y = ((positions - middle) / (_SQUARE * spacing)).clip(1 - _CLIP, _CLIP - 1).T
    cell_of_grid = (np.floor(x) + _CLIP).astype(np.int64) * 2 * _CLIP + (
        np.floor(y) + _CLIP
    ).astype(int)
    square = np.unique(cell_of_grid * (within.max() + 1) + within, return_inverse=True)[1]
    in_squares, overall = _different(square, code), _different(within, code)
    return in_squares / overall if overall > 0 else 0.0


def _different(group: np.ndarray, code: np.ndarray) -> float:
    """Return the fraction of pairs within a group that have different codes."""

    def pairs(number: np.ndarray) -> float:
        size = np.unique(number, return_counts=True)[1].astype(np.float64)
        return float((size * (size - 1)).sum())

    all_pairs = pairs(group)
    return 1 - pairs(group * (code.max() + 1) + code) / all_pairs if all_pairs else 0.0


def _spacing(positions: np.ndarray) -> float:
    """Return the median distance to the 6th nearest position, from a sample of cells."""
    sites = positions
    for _ in range(2):
        sample = sites[:: max(len(sites) // _SAMPLE, 1)]
        distance = cKDTree(sites).query(sample, k=[min(7, len(sites))])[0]
        if (spacing := float(np.median(distance))) > 0:
            return spacing
        sites = np.unique(positions, axis=0)  # lattices on top of each other
    return 0.0


def _nearest(positions: np.ndarray, group: np.ndarray) -> float:
    """Return the median distance to the nearest cell of the same group, from a sample of cells."""
    order = np.argsort(group, kind="stable")
    step = max(len(group) // _SAMPLE, 1)
    distances = []
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        group_positions = positions[rows]
        if len(group_positions) > 1:
            distances.append(
                cKDTree(group_positions).query(group_positions[::step], k=[2])[0].ravel()
            )
    return float(np.median(np.concatenate(distances))) if distances else 0.0


def _candidates(adata: AnnData, slice_key: str | None) -> list[str]:
    """Return the columns that may be slice keys, the most likely first."""
    ids = _library_ids(adata)
    ranks = {}
    for column in adata.obs.columns.difference([slice_key]):
        rank = _USUAL.index(name) if (name := _normalized(str(column))) in _USUAL else None
        values = adata.obs[column]
        # Columns with other names are candidates only if they hold the library ids.
        if rank is None and (len(ids) < 2 or pd.api.types.is_numeric_dtype(values)):
            continue
        names = _names(adata, column)
        if rank is None and names <= ids:
            rank = 0
        if rank is not None and 1 < len(names) <= adata.n_obs / _MIN_CELLS:
            ranks[column] = rank
    return sorted(ranks, key=lambda column: ranks[column])


def _check_unnamed(adata: AnnData, positions: np.ndarray, within: np.ndarray) -> None:
    """Warn of slices without a column, by suffixes of cell names or repeated array positions."""
    ends = pd.Series(adata.obs_names.astype(str)).str.extract(r"-([A-Za-z0-9]+)$")[0]
    code, names = pd.factorize(ends)
    if (code >= 0).all() and 1 < len(names) <= adata.n_obs / _MIN_CELLS:
        if are_stacked(positions, code, within):
            _warn(
                f"cells whose names end in {preview([f'-{name}' for name in names])} lie on top "
                "of each other, as several slices do, but are treated as one; separate them: "
                "adata.obs['slice_id'] = adata.obs_names.str.rsplit('-', n=1).str[-1], and give "
                "slice_key='slice_id' (--slice-key slice_id)"
            )
            return
    if not {"array_row", "array_col"} <= set(adata.obs.columns):
        return
    array = adata.obs[["array_row", "array_col"]].assign(within=within)
    if (doubled := int(array.duplicated().sum())) > adata.n_obs * _SEPARATE:
        _warn(
            f"{doubled} of {adata.n_obs} spots have the same array_row and array_col as another, "
            "as in several slices, but are treated as one slice, and no usual column of obs "
            f"separates them; name it with slice_key, or concatenate the slices by {_JOINED}"
        )


def _depth_message(
    adata: AnnData, positions: np.ndarray, spatial_key: str, within: np.ndarray
) -> str | None:
    """Return a message if the third column of positions separates sections on top of each other."""
    given = adata.obsm[spatial_key]
    if isinstance(given, pd.DataFrame) or given.shape[1] < 3:
        return None
    code, depths = pd.factorize(np.asarray(given[:, 2]).ravel())
    if not 1 < len(depths) <= adata.n_obs / _MIN_CELLS or not are_stacked(positions, code, within):
        return None
    array = f"adata.obsm[{spatial_key!r}]"
    return (
        f"the third column of obsm[{spatial_key!r}] separates {len(depths)} sections that lie on "
        "top of each other, but they are treated as one; separate them: adata.obs['slice_id'] = "
        f"{array}[:, 2].astype(str), and give slice_key='slice_id' (--slice-key slice_id)"
    )


def _message(adata: AnnData, key: str, spatial_key: str, slice_key: str | None) -> str:
    taken = "all cells are treated as one" if slice_key is None else f"slice_key is {slice_key!r}"
    message = (
        f"obs[{key!r}] separates {len(_names(adata, key))} slices that lie on top of each other "
        f"in obsm[{spatial_key!r}], but {taken}; give slice_key={key!r} (--slice-key {key})"
    )
    for other in adata.obsm:
        values = adata.obsm[other]
        usual = re.search("spatial|global", other, re.IGNORECASE) and other != spatial_key
        if not usual or not isinstance(values, np.ndarray) or values.shape[1:] != (2,):
            continue
        if values.dtype.kind in "iuf" and np.isfinite(values).all():
            code = _codes(adata, key)
            if mixed(values.astype(np.float64), code, np.zeros_like(code)) < _SEPARATE:
                message += f", or spatial_key={other!r}, where they lie side by side"
                break
    return message


def _codes(adata: AnnData, key: str) -> np.ndarray:
    return pd.factorize(read_names(adata.obs[key]), use_na_sentinel=False)[0].astype(np.int64)


def _names(adata: AnnData, key: str) -> set[str]:
    return set(pd.unique(pd.Series(read_names(adata.obs[key]), dtype=object).dropna()))


def _library_ids(adata: AnnData) -> set[str]:
    images = adata.uns.get("spatial")
    return set(map(str, images)) if isinstance(images, dict) else set()


def _normalized(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
