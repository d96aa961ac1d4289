"""Embedded cells of several slices, as tasks on all of them take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from stofm_geo._anndata_checks import check_obsm, check_positions
from stofm_geo._keys import Keys
from stofm_geo._slices import label_slices
from stofm_geo._validation import preview


@dataclass
class Embedded:
    """Cells with an embedding, of one or several AnnData; ``n`` of them.

    Attributes:
        vectors: ``[n, D]``.
        slices: Number of each cell's slice, over all AnnData, from 0, ``[n]``.
        positions: Within its slice, ``[n, 2]``.
        full: Which cells of each AnnData these are: those whose vector is not 0.
        located: Of each AnnData, positions ``[cells, 2]`` and number of the slice ``[cells]`` of
            all its cells.
    """

    vectors: np.ndarray
    slices: np.ndarray
    positions: np.ndarray
    full: list[np.ndarray]
    located: list[tuple[np.ndarray, np.ndarray]]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the rows of values ``[n, ...]`` by AnnData."""
        return np.split(values, np.cumsum([own.sum() for own in self.full])[:-1])


def read_embedded(
    adatas: list[AnnData], use_rep: str, spatial_key: str, slice_key: str | None
) -> Embedded:
    """Read embeddings and positions; arguments as of :func:`stofm_geo.tl.domains`.

    Raises:
        KeyError, TypeError, ValueError: As of :func:`stofm_geo.tl.domains`.
    """
    fix = "run SToFM.embed first, or name another key with use_rep"
    vectors = [check_obsm(one, use_rep, fix, as_is=True) for one in adatas]
    if len(sizes := sorted({part.shape[1] for part in vectors})) > 1:
        raise ValueError(
            f"obsm[{use_rep!r}] has {preview(sizes)} columns in different AnnData; embed all with "
            "one model"
        )
    if use_rep == Keys.EMBEDDING:
        _check_same_weights(adatas)
    full = [np.asarray(part.any(axis=1)) for part in vectors]
    located = [locate(one, spatial_key, slice_key) for one in adatas]
    vectors = [v if own.all() else v[own] for v, own in zip(vectors, full, strict=True)]
    cells = sum(one.n_obs for one in adatas)
    if cells == 0:
        raise ValueError("there are no cells")
    if not any(map(len, vectors)):
        raise ValueError(f"all {cells} vectors in obsm[{use_rep!r}] are 0; nothing to divide")
    # Of slices that have cells, over all AnnData.
    starts = np.cumsum([0, *(code.max(initial=-1) + 1 for _, code in located)])
    code = [start + own[1][has] for start, own, has in zip(starts, located, full, strict=False)]
    return Embedded(
        np.concatenate(vectors) if len(vectors) > 1 else vectors[0],
        np.unique(np.concatenate(code), return_inverse=True)[1],
        np.concatenate([own[0][has] for own, has in zip(located, full, strict=True)]),
        full,
        located,
    )


def _check_same_weights(adatas: list[AnnData]) -> None:
    """Check that embeddings are of one model, where ``uns["stofm"]`` tells the weights.

    Raises:
        ValueError: They are not.
    """
    hashes: dict[str, int] = {}
    for i, one in enumerate(adatas):
        made = one.uns.get(Keys.UNS)
        if isinstance(made, dict) and "weights_sha256" in made:
            hashes.setdefault(str(made["weights_sha256"]), i)
    if len(hashes) > 1:
        told = ", ".join(f"{found[:12]} (AnnData {i})" for found, i in hashes.items())
        raise ValueError(
            f"obsm[{Keys.EMBEDDING!r}] is of different models, weights {told}; embed all slices, "
            "those of the reference, too, with one model"
        )


def locate(
    adata: AnnData, spatial_key: str, slice_key: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions ``[n, 2]`` and number of the slice ``[n]`` of each cell."""
    positions = check_positions(adata, spatial_key)
    return positions, label_slices(adata, positions, spatial_key, slice_key).codes
