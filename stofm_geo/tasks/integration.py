"""Integration of slices: what differs between slices, and not between places, is taken out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._anndata_checks import check_anndatas, check_target
from stofm_geo._keys import Keys
from stofm_geo._linalg import BLOCK, principal_axes, row_order
from stofm_geo._validation import check_positive
from stofm_geo.tasks._embedded import Embedded, read_embedded
from stofm_geo.tasks.agreement import Agreement, agreement

Method = Literal["auto", "harmony", "center", "none"]

_COMPONENTS = 30
_APART = 0.05  # mixing below which slices lie apart: clusters are slices, for Harmony, too
_FEW = 0.25  # mixing below which domains may be slices
_GAIN = 0.1  # least gain of the score for which vectors are changed
_HARMONY = "pip install 'stofm-geo[integrate]'"


@dataclass(frozen=True)
class Integration:
    """How slices were integrated.

    Attributes:
        method: ``"harmony"``, ``"center"`` or ``"none"``.
        slices: How many there are.
        agreements: Of the vectors that were made; with ``"auto"``, of ``"none"``, too.
    """

    method: str
    slices: int
    agreements: dict[str, Agreement]

    def record(self) -> dict[str, Any]:
        """Return what is written into ``uns``."""
        return {
            "slices": self.slices,
            "integrate": self.method,
            **{
                name: {"mixing": found.mixing, "correspondence": found.correspondence}
                for name, found in self.agreements.items()
            },
        }


def integrate(
    adata: AnnData | list[AnnData],
    *,
    use_rep: str = Keys.EMBEDDING,
    spatial_key: str = Keys.SPATIAL,
    slice_key: str | None = None,
    method: Method = "auto",
    key_added: str = Keys.INTEGRATED,
    seed: int = 0,
) -> None:
    """Remove differences between slices from embeddings; write ``adata.obsm[key_added]``, in place.

    Methods:

    - ``"harmony"``: Harmony (Korsunsky et al. 2019; ``harmonypy``, ``pip install
      'stofm-geo[integrate]'``) of the first 30 principal components; what it adds to them is added
      to the vectors. It corrects within clusters that slices share. Where there are none (mixing
      below 0.05, see below), it is given the centred vectors.
    - ``"center"``: each slice gets the mean of all cells.
    - ``"none"``: a copy.
    - ``"auto"``: ``"none"`` where slices have neighbours in each other (mixing of 0.05 or more):
      joint domains are found there as well without. Where slices lie apart, and joint domains would
      be slices, the method of the best score, if that is at least 0.1 above the score of
      ``"none"``; Harmony takes part where ``harmonypy`` is installed. The score is that of
      :class:`~stofm_geo.tasks.agreement.Agreement` for the first 30 principal components: how
      mixed the slices are among neighbours, times how well places of one slice have their
      counterparts in the others. It takes no labels.

    ``adata.uns[key_added]`` has the number of slices, the method, and mixing and correspondence
    of the result. The order of the rows does not matter. Cells whose embedding is 0, as of
    cells without counts, take no part and stay 0.

    True differences between slices, such as those of tumours of two patients, are removed with the
    rest; scores cannot distinguish them.

    Args:
        adata: Cells with embeddings in ``obsm[use_rep]``; one AnnData or a list.
        use_rep: Key in ``obsm`` of the embedding, ``[n, D]``.
        spatial_key: Key in ``obsm`` of the positions.
        slice_key: Column of ``obs`` that tells slices apart; ``None``: each AnnData is one slice.
        method: ``"auto"`` (default), ``"harmony"``, ``"center"`` or ``"none"``.
        key_added: Key in ``obsm`` and ``uns`` that is written; the vectors are ``[n, D]``.
        seed: Random seed of Harmony.

    Warns:
        UserWarning: ``"auto"`` leaves slices apart, and harmonypy is not installed.

    Raises:
        KeyError: A key does not exist; without ``X_stofm``, run ``SToFM.embed`` first.
        ValueError: ``method`` is unknown; there are no cells with an embedding; the embedding or
            the positions are not finite, or embeddings differ in size or are of different models.
        TypeError: ``adata`` is not an AnnData.
        ImportError: ``method="harmony"``, and harmonypy is not installed.

    Examples:
        >>> from stofm_geo import datasets, from_anndata, tl
        >>> adata = datasets.toy_tissue(200, 30, n_slices=2, seed=0)
        >>> adata.obsm["X_pca"] = from_anndata(adata, slice_key="slice_id").x.numpy()
        >>> tl.integrate(adata, use_rep="X_pca", slice_key="slice_id", method="center")
        >>> adata.obsm["X_stofm_integrated"].shape, adata.uns["X_stofm_integrated"]["slices"]
        ((200, 29), 2)
    """
    check_method("method", method)
    check_positive("seed", seed, whole=True, or_zero=True)
    adatas = check_anndatas(adata)
    for one in adatas:
        check_target(one, key_added, slice_key=slice_key, use_rep=use_rep, spatial_key=spatial_key)
    cells = read_embedded(adatas, use_rep, spatial_key, slice_key)
    vectors, integration = integrated(cells, method, seed)
    for one, own, part in zip(adatas, cells.full, cells.split(vectors), strict=True):
        every = np.zeros((one.n_obs, vectors.shape[1]), dtype=vectors.dtype)
        every[own] = part
        one.obsm[key_added] = every
        one.uns[key_added] = integration.record()


def check_method(name: str, method: object) -> None:
    """Check the name of a method, and that what it needs is installed.

    Raises:
        ValueError: There is no such method.
        ImportError: harmonypy is not installed.
    """
    if method not in get_args(Method):
        raise ValueError(f"{name} must be one of {list(get_args(Method))}; found {method!r}")
    if method == "harmony" and not _installed():
        raise ImportError(f"{name}='harmony' needs harmonypy: {_HARMONY}")


def describe(record: dict[str, Any]) -> str:
    """Return in words what :meth:`Integration.record` tells: nothing of one slice.

    Example:
        ``" over 4 slices jointly (integrate: harmony, mixing 0.86 instead of 0.23)"``
    """
    if record["slices"] == 1:
        return ""
    method = record["integrate"]
    told = f"integrate: {method}"
    if "none" in record:
        mixing = f"mixing {record[method]['mixing']:.2f}"
        told += f", {mixing}"
        if method != "none":
            told += f" instead of {record['none']['mixing']:.2f}"
    return f" over {record['slices']} slices jointly ({told})"


def integrated(cells: Embedded, method: str, seed: int) -> tuple[np.ndarray, Integration]:
    """Return the vectors of cells after integration, ``[n, D]``, and how it was done.

    Args:
        cells: Of all slices.
        method: Of :func:`integrate`.
        seed: Random seed of Harmony.
    """
    count = int(cells.slices.max()) + 1
    if count == 1 or method == "none":
        return cells.vectors, Integration("none", count, {})
    # Rows in an order of their own, so that theirs does not matter; of equal ones, by slice.
    order = np.argsort(cells.slices, kind="stable")
    order = order[row_order(cells.vectors[order])]
    vectors, slices, places = cells.vectors[order], cells.slices[order], cells.positions[order]
    made = {"none": vectors}
    agreements = {"none": _agree(vectors, slices, places)} if method == "auto" else {}
    if method == "center" or (method == "auto" and agreements["none"].mixing < _APART):
        made["center"] = _centred(vectors, slices)
    if method == "harmony" or ("center" in made and method == "auto" and _installed()):
        made["harmony"] = _harmonised(vectors, slices, places, seed)
    for name in made.keys() - agreements.keys() - {"none"}:
        agreements[name] = _agree(made[name], slices, places)
    if method == "auto":
        method = choose(agreements)
        _warn_if_apart(agreements, method, count)
    result = np.empty_like(vectors)
    result[order] = made[method]
    return result, Integration(method, count, agreements)


def choose(agreements: dict[str, Agreement]) -> str:
    """Return the method that ``"auto"`` takes; see :func:`integrate`.

    Args:
        agreements: Of ``"none"``, and, where slices lie apart, of the others, by name.
    """
    before = agreements["none"]
    best = max(agreements, key=lambda name: agreements[name].score)
    if before.mixing >= _APART or agreements[best].score < before.score + _GAIN:
        return "none"
    return best


def _warn_if_apart(agreements: dict[str, Agreement], method: str, count: int) -> None:
    mixing = agreements[method].mixing
    if agreements["none"].mixing < _APART and mixing < _FEW and not _installed():
        warnings.warn(
            f"the {count} slices hardly mix ({mixing:.2f}, where 1 is chance; integrate: "
            f"{method}), so that joint domains may follow the slices; with Harmony they may "
            f"mix better: {_HARMONY}",
            stacklevel=4,
        )


def _agree(vectors: np.ndarray, slices: np.ndarray, positions: np.ndarray) -> Agreement:
    return agreement(_components(vectors)[0], slices, positions)


def _installed() -> bool:
    return find_spec("harmonypy") is not None


def _centred(vectors: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Give each slice the mean of all cells."""
    total = np.stack(
        [vectors[slices == i].sum(axis=0, dtype=np.float64) for i in range(slices.max() + 1)]
    )
    shift = total.sum(axis=0) / len(vectors) - total / np.bincount(slices)[:, None]
    return vectors + shift.astype(vectors.dtype)[slices]


def _harmonised(
    vectors: np.ndarray, slices: np.ndarray, positions: np.ndarray, seed: int
) -> np.ndarray:
    """Add to vectors what Harmony adds to their principal components."""
    import harmonypy

    parts, axes = _components(vectors)
    if agreement(parts, slices, positions).mixing < _APART:
        vectors = _centred(vectors, slices)
        parts, axes = _components(vectors)
    frame = pd.DataFrame({"slice": slices.astype(str)})
    found = harmonypy.run_harmony(
        parts, frame, ["slice"], random_state=seed, verbose=False, ncores=1
    )
    return vectors + ((found.Z_corr - parts) @ axes).astype(vectors.dtype)


def _components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First principal components ``[n, 30]`` and their axes ``[30, D]``, float64."""
    starts = range(0, len(vectors), BLOCK)
    size = min(_COMPONENTS, *vectors.shape)
    mean, axes, _ = principal_axes((vectors[i : i + BLOCK] for i in starts), size)
    return np.concatenate([(vectors[i : i + BLOCK] - mean) @ axes.T for i in starts]), axes
